//! Rules and policies that others leave without effect. Only what is certain is told: a rule covers
//! another if each part of it is the same, or wider for being absent.

use super::{Check, Finding, Located};
use crate::{
    mesh::policy::{
        Target,
        authorization::{Action, AuthorizationPolicy, Rule},
    },
    source::{field::FieldPath, kubernetes_objects::security::authorization::matches_all},
};

/// By another rule of the same policy, or by having none.
pub(super) fn within(located: &Located<'_, AuthorizationPolicy>) -> Vec<Finding> {
    let policy = located.policy;
    let rules = FieldPath::of("spec.rules");
    if policy.rules.is_empty() && policy.action == Action::Audit {
        let message = "an AUDIT without rules reports nothing: to report everything, write one rule that is empty: `- {}`";
        return vec![located.warning(Check::NoEffect, &rules, message.to_owned())];
    }
    let mut findings = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        if never_matches(policy, rule) {
            continue;
        }
        let covering = policy
            .rules
            .iter()
            .enumerate()
            .find(|(other_index, other)| {
                // Of two that are equal, the later one is told.
                let counts = *other_index < index || (*other_index > index && !covers(rule, other));
                counts && !never_matches(policy, other) && covers(other, rule)
            });
        if let Some((other, _)) = covering {
            let message = format!("has no effect: spec.rules[{other}] matches all that it does");
            findings.push(located.warning(Check::Shadowed, &rules.index(index), message));
        }
    }
    findings
}

/// By another policy that decides everything for the same workloads.
pub(super) fn between(policies: &[Located<'_, AuthorizationPolicy>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, located) in policies.iter().enumerate() {
        let others = policies.iter().enumerate();
        let mut others = others.filter(|(other, _)| *other != index);
        let stronger = others.find_map(|(other_index, other)| {
            let effect = effect(other.policy, located.policy)?;
            let counts = other_index < index || !is_mutual(other, located);
            (counts && is_wider(&other.target, &located.target)).then_some((other, effect))
        });
        if let Some((other, effect)) = stronger {
            let message = format!(
                "has no effect: {} {effect} everything for the same workloads",
                other.key
            );
            let whole = FieldPath::default();
            findings.push(located.warning(Check::Shadowed, &whole, message));
        }
    }
    findings
}

/// Two that match everything would shadow each other: the first of them counts.
fn is_mutual(
    stronger: &Located<'_, AuthorizationPolicy>,
    weaker: &Located<'_, AuthorizationPolicy>,
) -> bool {
    stronger.target == weaker.target
        && stronger.policy.action == weaker.policy.action
        && decides_all(weaker.policy)
}

/// How `stronger` leaves `weaker` without effect where both apply.
fn effect(stronger: &AuthorizationPolicy, weaker: &AuthorizationPolicy) -> Option<&'static str> {
    // What is only reported is reported all the same.
    if stronger.dry_run || weaker.dry_run || !decides_all(stronger) {
        return None;
    }
    match (stronger.action, weaker.action) {
        (Action::Deny, Action::Allow | Action::Deny) => Some("denies"),
        (Action::Allow, Action::Allow) => Some("allows"),
        _ => None,
    }
}

fn decides_all(policy: &AuthorizationPolicy) -> bool {
    let mut rules = policy.rules.iter();
    rules.any(|rule| matches_all(rule) && !never_matches(policy, rule))
}

fn never_matches(policy: &AuthorizationPolicy, rule: &Rule) -> bool {
    policy.action == Action::Allow && !rule.layer7.is_empty()
}

/// Whether `wide` matches all that `narrow` does.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    matches_all(wide)
        || (any_covers(&wide.from, &narrow.from)
            && any_covers(&wide.to, &narrow.to)
            && wide
                .when
                .iter()
                .all(|condition| narrow.when.contains(condition)))
}

/// Of alternatives: none is everything.
fn any_covers<T: PartialEq + Default>(wide: &[T], narrow: &[T]) -> bool {
    let all = T::default();
    wide.is_empty()
        || wide.contains(&all)
        || (!narrow.is_empty() && narrow.iter().all(|part| wide.contains(part)))
}

fn is_wider(wide: &Target, narrow: &Target) -> bool {
    let namespace = wide.namespace.is_none() || wide.namespace == narrow.namespace;
    let mut labels = wide.selector.0.iter();
    namespace && labels.all(|(label, value)| narrow.selector.0.get(label) == Some(value))
}
