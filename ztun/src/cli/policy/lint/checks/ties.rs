//! `PeerAuthentication`s that set the mode of the same workloads: only one of them is in force.

use super::{Check, Finding, Inventory, Located};
use crate::{
    mesh::policy::{PeerAuthentication, Target},
    source::field::FieldPath,
};

pub(super) fn check(
    policies: &[Located<'_, PeerAuthentication>],
    inventory: &Inventory,
) -> Vec<Finding> {
    let mut in_order: Vec<_> = policies.iter().collect();
    in_order.sort_by_key(|located| located.policy.age());
    let mut findings = Vec::new();
    for (index, located) in in_order.iter().enumerate() {
        let mut stronger = in_order.iter().take(index);
        let stronger = stronger.find(|other| overlap(&other.target, &located.target, inventory));
        if let Some(stronger) = stronger {
            let why = if stronger.policy.created == located.policy.created {
                "by its name"
            } else {
                "as the older one"
            };
            let message = format!(
                "is not in force where {} is for the same workloads, which wins {why}",
                stronger.key
            );
            findings.push(located.warning(Check::Tie, &FieldPath::default(), message));
        }
    }
    findings
}

/// Whether both are for one workload, at the same level: a selector is stronger than none by design.
fn overlap(a: &Target, b: &Target, inventory: &Inventory) -> bool {
    if a.namespace != b.namespace || a.selector.is_empty() != b.selector.is_empty() {
        return false;
    }
    let mut of_both = inventory.selected(a).into_iter();
    a.selector == b.selector || of_both.any(|member| b.selector.matches(&member.labels))
}
