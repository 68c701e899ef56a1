//! What policies that decide nothing say of a connection: AUDIT and dry-run.

use std::{cell::OnceCell, fmt, sync::Arc};

use serde::Serialize;

use super::{Action, Authorizations, compiled::Facts};
use crate::mesh::policy::Connection;

/// What one policy says of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditFinding {
    /// Such as `AuthorizationPolicy foo/try-out`.
    pub policy: Arc<str>,
    /// The index of the rule that matches; `None` where it is that no rule does.
    pub rule: Option<usize>,
    pub outcome: AuditOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// An AUDIT policy matches.
    Matched,
    /// A dry-run ALLOW policy matches.
    WouldAllow,
    /// A dry-run DENY policy matches; or a dry-run ALLOW policy applies, and no ALLOW policy
    /// matches, whether in force or dry-run: together in force they would let nobody in.
    WouldDeny,
}

impl AuditOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::WouldAllow => "would-allow",
            Self::WouldDeny => "would-deny",
        }
    }
}

/// Such as `AuthorizationPolicy foo/try-out would-deny (rules[0])`.
impl fmt::Display for AuditFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy, self.outcome.as_str())?;
        match self.rule {
            Some(rule) => write!(f, " (rules[{rule}])"),
            None => f.write_str(" (no rule matches)"),
        }
    }
}

impl Authorizations {
    pub(in crate::mesh::policy) fn audit<'a>(
        &'a self,
        connection: &Connection<'a>,
    ) -> impl Iterator<Item = AuditFinding> + use<'a> {
        let facts = Facts::of(connection, &self.trust_domains);
        let destination = connection.destination;
        let allowed = OnceCell::new();
        let allows = move || {
            let in_force = self.in_force.applying(destination);
            in_force
                .chain(self.reported.applying(destination))
                .map(|entry| &entry.policy)
                .any(|policy| policy.action == Action::Allow && policy.matches(&facts))
        };
        let applying = self.reported.applying(destination);
        applying.filter_map(move |entry| {
            let rule = entry.policy.matching_rule(&facts);
            let outcome = match (entry.policy.action, rule) {
                (Action::Audit, Some(_)) => AuditOutcome::Matched,
                (Action::Allow, Some(_)) => AuditOutcome::WouldAllow,
                (Action::Deny, Some(_)) => AuditOutcome::WouldDeny,
                (Action::Allow, None) if !*allowed.get_or_init(allows) => AuditOutcome::WouldDeny,
                (_, None) => return None,
            };
            Some(AuditFinding {
                policy: Arc::clone(&entry.policy.title),
                rule,
                outcome,
            })
        })
    }
}
