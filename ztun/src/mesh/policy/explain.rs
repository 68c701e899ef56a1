//! The decision on a connection, with all that led to it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Connection, Decision, Denial, MtlsMode, Policies,
    authorization::{Action, PolicyExplanation},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The same as [`Policies::authorize`] says.
    pub decision: Decision,
    /// `None` where nothing that decides applies.
    pub decided_by: Option<Decider>,
    pub mutual_tls: MutualTlsExplanation,
    /// What nobody may enter because a policy can't be enforced as written.
    pub closed: Vec<Denial>,
    /// The `AuthorizationPolicy` objects that apply, by namespace and name.
    pub policies: Vec<PolicyExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decider {
    /// Such as `AuthorizationPolicy foo/allow-web`.
    pub policy: Arc<str>,
    /// The index of the rule, if one decided.
    pub rule: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MutualTlsExplanation {
    /// In force on the destination's port.
    pub mode: MtlsMode,
    /// What sets it; `None` is the default.
    pub set_by: Option<Arc<str>>,
}

impl Policies {
    pub fn explain(&self, connection: &Connection<'_>) -> Explanation {
        let closed: Vec<Denial> = self.closed(connection.destination);
        let mutual_tls = self.explain_mutual_tls(connection);
        let policies = self.authorizations.explain(connection);
        let plaintext_refused = connection.source.is_none() && mutual_tls.mode == MtlsMode::Strict;
        let decided_by = if let Some(first) = closed.first() {
            Some(Decider::whole(&first.policy))
        } else if plaintext_refused {
            mutual_tls.set_by.as_ref().map(Decider::whole)
        } else {
            authorization_decider(&policies)
        };
        Explanation {
            decision: self.authorize(connection),
            decided_by,
            mutual_tls,
            closed,
            policies,
        }
    }

    fn explain_mutual_tls(&self, connection: &Connection<'_>) -> MutualTlsExplanation {
        let port = connection.destination_address.port();
        let effective = self
            .peer_authentications
            .effective(connection.destination, port);
        effective.map_or(
            MutualTlsExplanation {
                mode: MtlsMode::Permissive,
                set_by: None,
            },
            |(mode, policy)| MutualTlsExplanation {
                mode,
                set_by: Some(policy.to_string().into()),
            },
        )
    }
}

impl Decider {
    fn whole(policy: &Arc<str>) -> Self {
        Self {
            policy: Arc::clone(policy),
            rule: None,
        }
    }
}

fn authorization_decider(policies: &[PolicyExplanation]) -> Option<Decider> {
    let with_action = |action| {
        let in_force = policies.iter().filter(|policy| policy.in_force());
        in_force.filter(move |policy| policy.action == action)
    };
    let matching = |policy: &&PolicyExplanation| policy.matching_rule.is_some();
    let decider = with_action(Action::Deny)
        .find(matching)
        .or_else(|| with_action(Action::Allow).find(matching))
        .or_else(|| with_action(Action::Allow).next())?;
    Some(Decider {
        policy: Arc::clone(&decider.policy),
        rule: decider.matching_rule,
    })
}

/// Such as `AuthorizationPolicy foo/allow-web, rules[0]`.
impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy)?;
        match self.rule {
            Some(rule) => write!(f, ", rules[{rule}]"),
            None => Ok(()),
        }
    }
}
