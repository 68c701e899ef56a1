//! Whether policies let a connection in, and what each of them says.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Answers, ClientSide, Endpoint, Query, QueryError, attempt::Attempt};
use crate::mesh::{Decision, Identity, policy::Explanation};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthzExplanation {
    pub verdict: Verdict,
    /// A pod, or an address outside of the mesh.
    pub source: String,
    /// What the client asks for, with the port.
    pub host: String,
    pub endpoint: Endpoint,
    pub client: ClientSide,
    /// What policies see of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// `None` where no policy is asked: the client's side refuses, or the destination is not enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    pub source_address: IpAddr,
    #[serde(flatten)]
    pub explanation: Explanation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Allow,
    Deny,
}

impl Answers<'_> {
    pub fn authz_explain(&self, query: &Query) -> Result<Vec<AuthzExplanation>, QueryError> {
        let attempts = self.attempts(query)?;
        let explanations = attempts.iter().map(|attempt| self.explain(attempt));
        Ok(explanations.collect())
    }

    fn explain(&self, attempt: &Attempt) -> AuthzExplanation {
        let refused = matches!(attempt.client, ClientSide::Refused { .. });
        let destination = attempt.enrolled_destination().filter(|_| !refused);
        let judgement = destination.map(|destination| {
            let connection = attempt.connection(destination);
            Judgement {
                source_address: connection.source_address.ip(),
                explanation: self.snapshot.policies().explain(&connection),
            }
        });
        let denied = judgement
            .as_ref()
            .is_some_and(|judgement| judgement.explanation.decision != Decision::Allow);
        AuthzExplanation {
            verdict: if refused || denied {
                Verdict::Deny
            } else {
                Verdict::Allow
            },
            source: attempt.source.to_string(),
            host: attempt.host.to_string(),
            endpoint: attempt.endpoint(),
            client: attempt.client.clone(),
            identity: attempt.identity().cloned(),
            judgement,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mesh::{
        Snapshot,
        answers::fixture::{query, snapshot},
        policy::{
            Policy, PolicyKey, PolicyKind, Selector,
            authorization::{Action, AuthorizationPolicy, Rule, Source},
        },
        transport::TransportSettings,
    };

    /// Lets the namespace foo and the address of `outside` in, anywhere.
    fn with_policy() -> Snapshot {
        let mut snapshot = snapshot();
        let of_namespace = Source {
            namespaces: vec!["foo".into()],
            ..Source::default()
        };
        let of_address = Source {
            ip_blocks: vec!["10.0.0.4/32".parse().unwrap()],
            ..Source::default()
        };
        let rules = [of_namespace, of_address].map(|source| Rule {
            from: vec![source],
            ..Rule::default()
        });
        let policy = AuthorizationPolicy {
            namespace: "foo".into(),
            name: "some".into(),
            created: None,
            selector: Selector::default(),
            action: Action::Allow,
            dry_run: false,
            rules: rules.into(),
        };
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, "foo", "some");
        snapshot.insert_policy(key, Policy::Authorization(policy.into()));
        snapshot
    }

    fn explain(source: &str, destination: &str) -> AuthzExplanation {
        let snapshot = with_policy();
        let answers = Answers {
            node: "a",
            snapshot: &snapshot,
            transport: TransportSettings::default(),
        };
        let mut explanations = answers.authz_explain(&query(source, destination)).unwrap();
        assert_eq!(explanations.len(), 1);
        explanations.remove(0)
    }

    fn decided_by(explanation: &AuthzExplanation) -> Option<(String, Option<usize>)> {
        let judgement = explanation.judgement.as_ref()?;
        let decider = judgement.explanation.decided_by.as_ref()?;
        Some((decider.policy.to_string(), decider.rule))
    }

    #[test]
    fn an_identity_counts_where_it_is_proven_and_the_source_s_own_address_where_not() {
        let policy = "AuthorizationPolicy foo/some".to_owned();
        for (source, destination, identity, verdict, rule) in [
            (
                "foo/client",
                "pod/foo/far:80",
                true,
                Verdict::Allow,
                Some(0),
            ),
            ("foo/client", "foo/near:80", true, Verdict::Allow, Some(0)),
            ("foo/outside", "foo/near:80", false, Verdict::Allow, Some(1)),
            ("10.0.0.4", "foo/near:80", false, Verdict::Allow, Some(1)),
            ("192.0.2.1", "foo/near:80", false, Verdict::Deny, None),
        ] {
            let explained = explain(source, destination);
            assert_eq!(explained.verdict, verdict, "{source}");
            assert_eq!(explained.identity.is_some(), identity, "{source}");
            assert_eq!(decided_by(&explained), Some((policy.clone(), rule)));
        }
    }

    #[test]
    fn no_policy_is_asked_by_a_client_that_refuses_or_where_nobody_is_enrolled() {
        let refused = explain("foo/client", "foo/near:15008");
        assert_eq!((refused.verdict, refused.judgement), (Verdict::Deny, None));
        let outside = explain("foo/client", "foo/outside:80");
        assert_eq!((outside.verdict, outside.judgement), (Verdict::Allow, None));
    }

    #[test]
    fn an_explanation_survives_the_way_to_the_command_line() {
        for source in ["foo/client", "192.0.2.1"] {
            let explained = explain(source, "foo/near:80");
            let text = serde_json::to_string(&explained).unwrap();
            let read: AuthzExplanation = serde_json::from_str(&text).unwrap();
            assert_eq!(read, explained);
        }
    }
}
