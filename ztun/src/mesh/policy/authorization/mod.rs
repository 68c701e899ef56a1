//! `security.istio.io` `AuthorizationPolicy` at layer 4: who may talk to whom.

mod audit;
mod compiled;
mod decide;
mod explain;
mod model;
mod sets;

use std::sync::Arc;

use self::compiled::Compiled;
pub use self::{
    audit::{AuditFinding, AuditOutcome},
    explain::{Mismatch, PolicyExplanation, RuleExplanation},
    model::{
        Action, AuthorizationPolicy, Condition, Operation, Rule, ServiceAccount, Source,
        StringMatch, Values,
    },
};
use super::{
    PolicyKey, Target,
    index::{Entry, Index},
    listing::Listed,
};
use crate::mesh::identity::TrustDomain;

/// All of them, compiled and arranged by what they are for.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorizations {
    /// ALLOW and DENY.
    in_force: Index<Compiled>,
    /// AUDIT and dry-run: apart, so that they cost nothing where there are none.
    reported: Index<Compiled>,
    /// Of the mesh, if it has several: principals mean all of them.
    pub(super) trust_domains: Arc<[TrustDomain]>,
}

impl Authorizations {
    /// A policy of the root namespace covers the mesh, with a selector too: it selects in every
    /// namespace (Istio's reference of `AuthorizationPolicy`, `selector`).
    pub(super) fn insert(
        &mut self,
        root_namespace: &str,
        key: PolicyKey,
        policy: Arc<AuthorizationPolicy>,
    ) {
        let of_root = *policy.namespace == *root_namespace;
        let target = Target {
            namespace: (!of_root).then(|| Arc::clone(&policy.namespace)),
            selector: policy.selector.clone(),
        };
        let index = match policy.action {
            Action::Allow | Action::Deny if !policy.dry_run => &mut self.in_force,
            Action::Allow | Action::Deny | Action::Audit => &mut self.reported,
        };
        let policy = Compiled::new(policy, key.to_string().into());
        index.insert(Entry::new(key, target, policy));
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) {
        self.in_force.remove(key);
        self.reported.remove(key);
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = Listed> {
        let entries = self.in_force.iter().chain(self.reported.iter());
        entries.map(|entry| {
            let policy = &entry.policy.policy;
            let dry_run = if policy.dry_run { ", dry-run" } else { "" };
            let (action, rules) = (policy.action.as_str(), policy.rules.len());
            Listed::new(entry, format!("{action}{dry_run}, {rules} rules"))
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AuthorizationPolicy> {
        let entries = self.in_force.iter().chain(self.reported.iter());
        entries.map(|entry| &*entry.policy.policy)
    }
}

#[cfg(test)]
mod tests;
