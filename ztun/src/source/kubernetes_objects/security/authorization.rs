//! `AuthorizationPolicy`: its fields to what layer 4 can enforce, and the rest by its path.

use std::sync::Arc;

use serde_json::Value;

use super::{
    DRY_RUN, Policy,
    condition::{AtLayer, condition},
    selector_of, values,
};
use crate::{
    mesh::policy::authorization::{Action, AuthorizationPolicy, Operation, Rule, Source},
    source::{
        field::{FieldPath, FieldProblem},
        kubernetes_objects::{
            ObjectKey,
            fields::{Fields, Node, Problems},
        },
    },
};

const ACTIONS: [(&str, Option<Action>); 4] = [
    ("ALLOW", Some(Action::Allow)),
    ("DENY", Some(Action::Deny)),
    ("AUDIT", Some(Action::Audit)),
    ("CUSTOM", None),
];

/// Sources of requests, not of connections. Trust domains belong to connections, but the model has
/// no field for them.
const LAYER7_SOURCE: [&str; 4] = [
    "requestPrincipals",
    "notRequestPrincipals",
    "trustDomains",
    "notTrustDomains",
];
const LAYER7_OPERATION: [&str; 6] = [
    "hosts",
    "notHosts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];
pub(in super::super) fn authorization_policy(
    key: &ObjectKey,
    value: &Value,
) -> Result<AuthorizationPolicy, Vec<FieldProblem>> {
    let mut problems = Problems::default();
    let dry_run = dry_run(value, &mut problems);
    let policy = Policy::of(value, &mut problems);
    let allowed = [
        "selector",
        "action",
        "rules",
        "targetRef",
        "targetRefs",
        "provider",
    ];
    let spec = policy
        .spec
        .and_then(|spec| spec.fields(&allowed, &mut problems));
    let get = |name| spec.as_ref().and_then(|spec: &Fields<'_>| spec.get(name));
    if let Some(spec) = &spec {
        refuse_targets(spec, &mut problems);
    }
    let action = get("action").map_or(Some(Action::Allow), |node| {
        action(&node, get("provider").as_ref(), &mut problems)
    });
    let rules = get("rules").map_or_else(Vec::new, |node| {
        let items = node.items(&mut problems).into_iter();
        items
            .map(|item| rule(&item, &key.namespace, &mut problems))
            .collect()
    });
    if action == Some(Action::Deny) && rules.is_empty() {
        let path = FieldPath::of("spec.rules");
        problems.add(
            &path,
            "a DENY without rules denies nothing: to deny everything, write one rule that is empty: `- {}`",
        );
    }
    let selector = get("selector").map(|node| selector_of(&node, &mut problems));
    let made = AuthorizationPolicy {
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        created: policy
            .metadata
            .and_then(|metadata| metadata.creation_timestamp),
        selector: selector.unwrap_or_default(),
        action: action.unwrap_or(Action::Deny),
        dry_run,
        rules,
    };
    problems.or(made)
}

/// What of a rule's attributes layer 4 can't see, and what the rule does without them; each rule's
/// path with it.
pub fn unenforceable(
    policy: &AuthorizationPolicy,
) -> impl Iterator<Item = (FieldPath, String)> + '_ {
    let rules = policy.rules.iter().enumerate();
    let affected = rules.filter(|(_, rule)| !rule.layer7.is_empty());
    affected.map(|(index, rule)| {
        let consequence = match policy.action {
            Action::Allow => "this rule of an ALLOW never matches",
            Action::Deny if matches_all(rule) => "this rule denies every connection",
            Action::Deny => "this rule denies all that the rest of it matches",
            Action::Audit if matches_all(rule) => "this rule reports every connection",
            Action::Audit => "this rule reports all that the rest of it matches",
        };
        let message = format!(
            "not enforceable at layer 4: {}; so {consequence}",
            rule.layer7.join(", ")
        );
        (FieldPath::of("spec.rules").index(index), message)
    })
}

/// Whether the part of a rule that layer 4 sees matches every connection.
pub fn matches_all(rule: &Rule) -> bool {
    let any_source = rule.from.is_empty() || rule.from.contains(&Source::default());
    let any_operation = rule.to.is_empty() || rule.to.contains(&Operation::default());
    any_source && any_operation && rule.when.is_empty()
}

fn dry_run(value: &Value, problems: &mut Problems) -> bool {
    let annotations = value.pointer("/metadata/annotations");
    let Some(value) = annotations.and_then(|annotations| annotations.get(DRY_RUN)) else {
        return false;
    };
    if !value.is_string() {
        // The metadata's own check refuses it as every annotation that isn't text.
        return false;
    }
    let node = Node {
        path: FieldPath::of("metadata.annotations").field(DRY_RUN),
        value,
    };
    let words = [("true", true), ("false", false)];
    node.word(&words, problems).unwrap_or_default()
}

fn refuse_targets(spec: &Fields<'_>, problems: &mut Problems) {
    for name in ["targetRef", "targetRefs"] {
        let Some(node) = spec.get(name) else {
            continue;
        };
        if node.value.as_array().is_none_or(|items| !items.is_empty()) {
            problems.add(
                &node.path,
                "policies for gateways and services need a waypoint, which there is none of: use `spec.selector` with the labels of the workloads",
            );
        }
    }
}

fn action(node: &Node<'_>, provider: Option<&Node<'_>>, problems: &mut Problems) -> Option<Action> {
    let action = node.word(&ACTIONS, problems)?;
    match (action, provider) {
        (None, _) => problems.add(
            &node.path,
            "CUSTOM asks an external authorizer, which is not supported: use ALLOW, DENY or AUDIT",
        ),
        (Some(_), Some(provider)) => problems.add(
            &provider.path,
            "belongs to the action CUSTOM, which is not supported: remove it",
        ),
        (Some(_), None) => {}
    }
    action
}

fn rule(node: &Node<'_>, own_namespace: &str, problems: &mut Problems) -> Rule {
    let mut rule = Rule::default();
    if node.value.is_null() {
        let message = "expected a rule, found nothing: for one that matches everything, write `{}`";
        problems.add(&node.path, message);
        return rule;
    }
    let Some(fields) = node.fields(&["from", "to", "when"], problems) else {
        return rule;
    };
    for (part, name) in [("from", "source"), ("to", "operation")] {
        for (index, node) in parts(&fields, part, name, problems).into_iter().enumerate() {
            let mut layer7 = Vec::new();
            if part == "from" {
                rule.from
                    .push(source(&node, own_namespace, &mut layer7, problems));
            } else {
                rule.to.push(operation(&node, &mut layer7, problems));
            }
            let path = |field| Arc::from(format!("{part}[{index}].{name}.{field}"));
            rule.layer7.extend(layer7.into_iter().map(path));
        }
    }
    let conditions = fields.get("when");
    let conditions = conditions.map_or_else(Vec::new, |node| node.items(problems));
    for (index, node) in conditions.iter().enumerate() {
        match condition(node, own_namespace, problems) {
            Some(AtLayer::Four(condition)) => rule.when.push(condition),
            Some(AtLayer::Seven(key)) => {
                rule.layer7.push(format!("when[{index}] ({key})").into());
            }
            None => {}
        }
    }
    rule
}

/// The sources of `from`, or the operations of `to`. An empty one, or none, is an error: either
/// would match everything, and who writes it may mean nothing.
fn parts<'a>(rule: &Fields<'a>, part: &str, name: &str, problems: &mut Problems) -> Vec<Node<'a>> {
    let Some(list) = rule.get(part) else {
        return Vec::new();
    };
    let items = list.items(problems);
    if items.is_empty() && list.value.is_array() {
        let message =
            format!("an empty list restricts nothing: name a `{name}`, or leave `{part}` out");
        problems.add(&list.path, message);
    }
    let nodes = items.iter().filter_map(|item| {
        let fields = item.fields(&[name], problems)?;
        let node = fields.get(name);
        if node.is_none() {
            problems.add(&item.path, format!("`{name}` is missing"));
        }
        let node = node?;
        if node
            .value
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
        {
            let message =
                format!("is empty and restricts nothing: name a field, or leave `{part}` out");
            problems.add(&node.path, message);
        }
        Some(node)
    });
    nodes.collect()
}

fn source(
    node: &Node<'_>,
    own_namespace: &str,
    layer7: &mut Vec<&'static str>,
    problems: &mut Problems,
) -> Source {
    let layer4 = [
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ];
    let Some(fields) = node.fields(&[&layer4[..], &LAYER7_SOURCE].concat(), problems) else {
        return Source::default();
    };
    layer7.extend(unseen(&fields, &LAYER7_SOURCE, problems));
    refuse_mixed_accounts(&fields, problems);
    let account = |text: &str| values::service_account(text, own_namespace);
    Source {
        principals: list(&fields, "principals", values::principal, problems),
        not_principals: list(&fields, "notPrincipals", values::principal, problems),
        namespaces: list(&fields, "namespaces", values::namespace, problems),
        not_namespaces: list(&fields, "notNamespaces", values::namespace, problems),
        service_accounts: list(&fields, "serviceAccounts", account, problems),
        not_service_accounts: list(&fields, "notServiceAccounts", account, problems),
        ip_blocks: list(&fields, "ipBlocks", values::ip_block, problems),
        not_ip_blocks: list(&fields, "notIpBlocks", values::ip_block, problems),
        remote_ip_blocks: list(&fields, "remoteIpBlocks", values::ip_block, problems),
        not_remote_ip_blocks: list(&fields, "notRemoteIpBlocks", values::ip_block, problems),
    }
}

/// As the API server refuses it.
fn refuse_mixed_accounts(fields: &Fields<'_>, problems: &mut Problems) {
    let first = |names: &[&str]| names.iter().find_map(|name| fields.get(name));
    let accounts = first(&["serviceAccounts", "notServiceAccounts"]);
    let others = first(&["principals", "notPrincipals", "namespaces", "notNamespaces"]);
    if let (Some(accounts), Some(_)) = (accounts, others) {
        problems.add(
            &accounts.path,
            "service accounts can't stand beside principals or namespaces: a service account names its namespace, as NAMESPACE/NAME",
        );
    }
}

fn operation(
    node: &Node<'_>,
    layer7: &mut Vec<&'static str>,
    problems: &mut Problems,
) -> Operation {
    let allowed = [&["ports", "notPorts"][..], &LAYER7_OPERATION].concat();
    let Some(fields) = node.fields(&allowed, problems) else {
        return Operation::default();
    };
    layer7.extend(unseen(&fields, &LAYER7_OPERATION, problems));
    Operation {
        ports: list(&fields, "ports", values::port, problems),
        not_ports: list(&fields, "notPorts", values::port, problems),
    }
}

/// The fields that are there and that layer 4 can't see.
fn unseen(
    fields: &Fields<'_>,
    names: &[&'static str],
    problems: &mut Problems,
) -> Vec<&'static str> {
    let there = names.iter().filter(|name| {
        let node = fields.get(name);
        node.map(|node| node.list(|_| Ok(()), problems)).is_some()
    });
    there.copied().collect()
}

fn list<T>(
    fields: &Fields<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) -> Vec<T> {
    let node = fields.get(name);
    node.map_or_else(Vec::new, |node| node.list(parse, problems))
}
