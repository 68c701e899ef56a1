//! The decision: DENY first, then ALLOW if any applies. Letting in allocates nothing.

use std::{fmt::Write as _, sync::Arc};

use super::{
    Action, Authorizations,
    compiled::{Compiled, Facts},
};
use crate::mesh::policy::{Connection, Denial, index::Entry};

/// As many policies as a reason names.
const NAMED: usize = 5;

const DENIED: &str = "change that rule if such connections should be let in";
const NOT_ALLOWED: &str =
    "add a rule that matches if it should be let in; `ztun authz explain` tells why each does not";
const NOT_ALLOWED_PLAINTEXT: &str = "plaintext proves no identity, so no rule with principals, namespaces or serviceAccounts matches: enrol the client, or allow its address with ipBlocks";

/// What the ALLOW policies that apply say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowance {
    NoneApplies,
    Unmatched,
    Matched,
}

impl Authorizations {
    pub(in crate::mesh::policy) fn check(&self, connection: &Connection<'_>) -> Option<Denial> {
        let facts = Facts::of(connection, &self.trust_domains);
        let mut denied_by: Option<(&Entry<Compiled>, usize)> = None;
        let mut allowance = Allowance::NoneApplies;
        for entry in self.in_force.applying(connection.destination) {
            match entry.policy.action {
                Action::Allow if allowance == Allowance::Matched => {}
                Action::Allow if entry.policy.matches(&facts) => allowance = Allowance::Matched,
                Action::Allow => allowance = Allowance::Unmatched,
                Action::Deny => {
                    // The first by name is told, whatever order they are found in.
                    let told = denied_by.is_some_and(|(other, _)| other.key < entry.key);
                    if !told && let Some(rule) = entry.policy.matching_rule(&facts) {
                        denied_by = Some((entry, rule));
                    }
                }
                Action::Audit => {}
            }
        }
        if let Some((entry, rule)) = denied_by {
            return Some(denied(&entry.policy, rule));
        }
        (allowance == Allowance::Unmatched).then(|| self.not_allowed(connection))
    }

    fn not_allowed(&self, connection: &Connection<'_>) -> Denial {
        let mut applying: Vec<_> = self
            .in_force
            .applying(connection.destination)
            .filter(|entry| entry.policy.action == Action::Allow)
            .collect();
        applying.sort_unstable_by_key(|entry| &entry.key);
        let hint = match connection.source {
            Some(_) => NOT_ALLOWED,
            None => NOT_ALLOWED_PLAINTEXT,
        };
        Denial {
            policy: applying
                .first()
                .map_or_else(Arc::default, |first| Arc::clone(&first.policy.title)),
            reason: not_allowed_reason(&applying),
            hint: hint.into(),
        }
    }
}

fn denied(policy: &Compiled, rule: usize) -> Denial {
    Denial {
        policy: Arc::clone(&policy.title),
        reason: format!("its rule {} (rules[{rule}]) denies it", rule + 1).into(),
        hint: DENIED.into(),
    }
}

fn not_allowed_reason(applying: &[&Entry<Compiled>]) -> Arc<str> {
    if let [only] = applying {
        return if only.policy.rules.is_empty() {
            "it has no rules, so it allows nobody".into()
        } else {
            "it is the only ALLOW policy that applies, and no rule of it matches".into()
        };
    }
    let mut reason = String::from("no rule of the ALLOW policies that apply (");
    for (index, entry) in applying.iter().take(NAMED).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(
            reason,
            "{separator}{}/{}",
            entry.key.namespace, entry.key.name
        );
    }
    if let Some(others) = applying
        .len()
        .checked_sub(NAMED)
        .filter(|&others| others > 0)
    {
        let _ = write!(reason, " and {others} more");
    }
    reason.push_str(") matches");
    reason.into()
}
