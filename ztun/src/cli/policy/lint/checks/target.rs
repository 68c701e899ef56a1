//! Whether there is anything that a policy is for.

use super::{Check, Finding, Inventory, Located, ReadContext};
use crate::source::field::FieldPath;

pub(super) fn check<P>(
    located: &Located<'_, P>,
    inventory: &Inventory,
    context: ReadContext<'_>,
) -> Option<Finding> {
    let namespace = &located.key.namespace;
    if inventory.declares_namespaces()
        && **namespace != *context.root_namespace
        && !inventory.has_namespace(namespace)
    {
        let message = format!("namespace `{namespace}` is not in the directory");
        let field = FieldPath::of("metadata.namespace");
        return Some(located.warning(Check::Namespace, &field, message));
    }
    if !inventory.has_workloads() {
        return None;
    }
    let selected = inventory.selected(&located.target);
    let has_selector = !located.target.selector.is_empty();
    let field = FieldPath::of(if has_selector {
        "spec.selector"
    } else {
        "metadata.namespace"
    });
    if !selected.is_empty() {
        let outside = selected
            .iter()
            .filter(|member| inventory.is_outside(member));
        // A policy for many says nothing of each; one that nobody enforces is a mistake.
        return (outside.count() == selected.len()).then(|| {
            let message = format!(
                "has no effect: none of the workloads that it is for is enrolled ({}): label them, or their namespace, `istio.io/dataplane-mode: ambient`",
                located.target
            );
            located.warning(Check::NotEnrolled, &field, message)
        });
    }
    let message = format!(
        "no workload of the directory is what it is for: {}",
        located.target
    );
    Some(located.warning(Check::Target, &field, message))
}
