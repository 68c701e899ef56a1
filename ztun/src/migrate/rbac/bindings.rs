//! `ServiceRoleBinding` with its `ServiceRole` to policies that allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        Draft, Input, Origin, Outcome, Report, Settings,
        input::Found,
        legacy::rbac::{AccessRule, EnforcementMode, ServiceRoleBindingSpec},
        policy::{Action, AuthorizationPolicySpec, Condition, From, InForce, Rule, Source, To},
    },
    access_rule::{self, Permission},
    enforcement::Enforcement,
    subject::{self, Who},
    targets::{Finder, Target},
};
use crate::source::kubernetes_objects::Labels;

/// The rules that a binding refers to.
struct Role<'a> {
    origin: &'a Origin,
    /// Where they stand in it.
    field: &'static str,
    rules: &'a [AccessRule],
}

/// A rule of a policy, and the field of the role that it comes from.
type Sourced = (Rule, String);

pub(super) fn migrate(
    input: &Input,
    settings: &Settings,
    enforcement: &Enforcement,
    draft: &mut Draft,
) {
    let mut used = BTreeSet::new();
    for binding in input.bindings.values() {
        let report = &mut draft.report;
        for name in binding.spec.unknown.names() {
            let message = "ztun doesn't know this field";
            report.left_out(&binding.origin, format!("spec.{name}"), message);
        }
        let Some(role) = role(binding, input, report) else {
            continue;
        };
        used.insert(role.origin);
        if binding.namespace == settings.root_namespace {
            let message = "in the root namespace a policy is for the whole mesh: write one by hand";
            report.left_out(&binding.origin, "metadata.namespace", message);
            continue;
        }
        let subjects = subjects(binding, settings, report);
        if subjects.is_empty() {
            let message = "no subject is left: nobody is allowed anything by it";
            report.left_out(&binding.origin, "spec.subjects", message);
            continue;
        }
        let policies = policies(
            binding,
            &role,
            &subjects,
            input,
            settings,
            enforcement,
            report,
        );
        for ((target, labels), rules) in policies {
            write(binding, &role, &target, &labels, rules, enforcement, draft);
        }
    }
    for role in input.roles.values() {
        for name in role.spec.unknown.names() {
            let message = "ztun doesn't know this field";
            let field = format!("spec.{name}");
            draft.report.left_out(&role.origin, field, message);
        }
        if !used.contains(&role.origin) {
            let message =
                "no ServiceRoleBinding of the input refers to it: it allows nobody anything";
            draft.report.note(&role.origin, "", message);
        }
    }
}

fn role<'a>(
    binding: &'a Found<ServiceRoleBindingSpec>,
    input: &'a Input,
    report: &mut Report,
) -> Option<Role<'a>> {
    let (origin, spec) = (&binding.origin, &binding.spec);
    if !spec.actions.is_empty() {
        return Some(Role {
            origin,
            field: "spec.actions",
            rules: &spec.actions,
        });
    }
    let (field, name) = match (&spec.role_ref, &spec.role) {
        (Some(role), _) => ("spec.roleRef.name", &role.name),
        (None, Some(role)) => ("spec.role", role),
        (None, None) => {
            report.left_out(origin, "spec.roleRef", "it refers to no ServiceRole");
            return None;
        }
    };
    let key = (Arc::clone(&binding.namespace), Arc::clone(name));
    let Some(role) = input.roles.get(&key) else {
        let message = format!(
            "ServiceRole {}/{name} is not in the input: nobody is allowed anything by it",
            binding.namespace
        );
        report.left_out(origin, field, message);
        return None;
    };
    Some(Role {
        origin: &role.origin,
        field: "spec.rules",
        rules: &role.spec.rules,
    })
}

fn subjects(
    binding: &Found<ServiceRoleBindingSpec>,
    settings: &Settings,
    report: &mut Report,
) -> Vec<Who> {
    let subjects = binding.spec.subjects.iter().enumerate();
    subjects
        .filter_map(|(index, subject)| {
            let field = format!("spec.subjects[{index}]");
            subject::convert(subject, &binding.origin, &field, settings.layer7, report)
        })
        .collect()
}

/// The rules for each target, and the labels that a role asks of it besides.
fn policies(
    binding: &Found<ServiceRoleBindingSpec>,
    role: &Role<'_>,
    subjects: &[Who],
    input: &Input,
    settings: &Settings,
    enforcement: &Enforcement,
    report: &mut Report,
) -> BTreeMap<(Target, Labels), Vec<Sourced>> {
    let namespace = &binding.namespace;
    let finder = Finder {
        input,
        settings,
        enforcement,
        namespace,
        origin: role.origin,
    };
    let mut policies: BTreeMap<_, Vec<Sourced>> = BTreeMap::new();
    for (index, access_rule) in role.rules.iter().enumerate() {
        let field = format!("{}[{index}]", role.field);
        let layer7 = settings.layer7;
        let Some(permission) =
            access_rule::convert(access_rule, namespace, role.origin, &field, layer7, report)
        else {
            continue;
        };
        let targets = finder.find(&access_rule.services, &format!("{field}.services"), report);
        for target in targets {
            for labels in &permission.labels {
                let Some(target) = narrow(&target, labels) else {
                    let message = "the service's selector has another value for a label of destination.labels: no workload carries both";
                    report.left_out(role.origin, format!("{field}.constraints"), message);
                    continue;
                };
                let rules = policies.entry((target, labels.clone())).or_default();
                let new = rules_for(subjects, &permission);
                rules.extend(new.into_iter().map(|rule| (rule, field.clone())));
            }
        }
    }
    policies
}

fn narrow(target: &Target, labels: &Labels) -> Option<Target> {
    let mut narrowed = target.clone();
    for (key, value) in labels {
        let selected = &mut narrowed.selector.match_labels;
        let other = selected.insert(Arc::clone(key), Arc::clone(value));
        if other.is_some_and(|other| other != *value) {
            return None;
        }
    }
    Some(narrowed)
}

/// Subjects share a rule, except those with conditions, which are a rule's and not a subject's.
fn rules_for(subjects: &[Who], permission: &Permission) -> Vec<Rule> {
    let rule = |from, when: &[Condition]| Rule {
        from,
        to: match &permission.operation {
            operation if operation.is_empty() => Vec::new(),
            operation => vec![To {
                operation: operation.clone(),
            }],
        },
        when: [&permission.when, when].concat(),
    };
    let from = |who: &Who| From {
        source: who.source.clone(),
    };
    let is_anybody = |who: &&Who| who.source == Source::default();
    let (plain, conditional): (Vec<_>, Vec<_>) =
        subjects.iter().partition(|who| who.when.is_empty());
    let mut rules = Vec::new();
    if plain.iter().any(is_anybody) {
        rules.push(rule(Vec::new(), &[]));
    } else if !plain.is_empty() {
        rules.push(rule(plain.into_iter().map(from).collect(), &[]));
    }
    for who in conditional {
        let sources = if is_anybody(&who) {
            Vec::new()
        } else {
            vec![from(who)]
        };
        rules.push(rule(sources, &who.when));
    }
    rules
}

fn write(
    binding: &Found<ServiceRoleBindingSpec>,
    role: &Role<'_>,
    target: &Target,
    labels: &Labels,
    rules: Vec<Sourced>,
    enforcement: &Enforcement,
    draft: &mut Draft,
) {
    let mut parts = vec![&*binding.name];
    parts.extend(target.service.as_deref());
    parts.extend(labels.values().map(AsRef::as_ref));
    let mut from = vec![binding.origin.clone(), role.origin.clone()];
    from.dedup();
    let in_force = match binding.spec.mode {
        EnforcementMode::Permissive => InForce::DryRun,
        EnforcementMode::Enforced => target.in_force.max(enforcement.in_force),
    };
    let (rules, fields): (Vec<Rule>, Vec<String>) = rules.into_iter().unzip();
    let spec = AuthorizationPolicySpec {
        selector: target.selector.clone(),
        action: Some(Action::Allow),
        rules: rules.clone(),
    };
    let namespace = &binding.namespace;
    let name = draft.authorization_policy(namespace, &parts.join("-"), from, in_force, spec);
    let policy = format!("AuthorizationPolicy {namespace}/{name}");
    let report = &mut draft.report;
    for (index, (rule, field)) in rules.iter().zip(fields).enumerate() {
        if let Some(advice) = layer7_advice(rule, index) {
            let message = format!(
                "{policy} keeps what is of layer 7 for a proxy that looks into requests (a waypoint); ztun, at layer 4, lets nobody in by that rule. {advice}"
            );
            report.changed(role.origin, field, message);
        }
    }
    if target.in_force == InForce::DryRun {
        let message = format!(
            "roles were not in force for this target, so {policy} is a dry run (istio.io/dry-run): it blocks nothing, as before"
        );
        report.note(&binding.origin, "", message);
    }
    if target.service.is_some() {
        report.overall(
            Outcome::Note,
            "policies for services are for their workloads now: on every port, also on those that no service names",
        );
    }
}

/// How to make a rule one that layer 4 can enforce; `None` where it is one.
fn layer7_advice(rule: &Rule, index: usize) -> Option<String> {
    let parts = rule.layer7();
    if parts.is_empty() {
        return None;
    }
    if rule.from.is_empty() && rule.has_layer7_condition() {
        return Some(format!(
            "Without its condition spec.rules[{index}].when it would let in everybody: for ztun, say by principals who may get in"
        ));
    }
    let mut paths = Vec::new();
    for (number, to) in rule.to.iter().enumerate() {
        let operation = &to.operation;
        let mut names = operation.layer7().collect::<Vec<_>>();
        // An operation that is left empty is refused.
        if operation.ports.is_empty() && operation.not_ports.is_empty() && !names.is_empty() {
            paths.push(format!("to ({})", names.join(", ")));
            names.clear();
        }
        paths.extend(
            names
                .iter()
                .map(|name| format!("to[{number}].operation.{name}")),
        );
    }
    paths.extend(parts.into_iter().filter(|part| part.starts_with("when[")));
    let paths: Vec<String> = paths
        .iter()
        .map(|path| format!("spec.rules[{index}].{path}"))
        .collect();
    Some(format!(
        "For ztun, remove {}, or migrate with --layer4: these subjects are then allowed every request",
        paths.join(" and ")
    ))
}
