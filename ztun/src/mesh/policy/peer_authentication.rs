//! `security.istio.io` `PeerAuthentication`: where mutual TLS is required.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use serde::Serialize;
use time::OffsetDateTime;

use super::{Connection, Denial, Selector};
use crate::mesh::workload::Workload;

/// What a policy asks of connections. A mode that is unset is an absent `MtlsMode`: it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// Plaintext and mutual TLS. `DISABLE` is this too: a node proxy doesn't refuse mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerAuthentication {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub created: Option<OffsetDateTime>,
    pub selector: Selector,
    pub mode: Option<MtlsMode>,
    /// By the workload's own port; without a selector they have no effect.
    pub port_modes: BTreeMap<u16, Option<MtlsMode>>,
}

/// All of them, arranged by what they cover.
#[derive(Clone, Debug, Default)]
pub struct PeerAuthentications {
    mesh: Option<Arc<PeerAuthentication>>,
    namespaces: HashMap<Arc<str>, Namespace>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    whole: Option<Arc<PeerAuthentication>>,
    /// With selectors, the oldest first.
    workloads: Vec<Arc<PeerAuthentication>>,
}

impl PeerAuthentications {
    /// The oldest policy wins where several cover the same; one of unknown age counts as youngest,
    /// and the name decides between equals.
    ///
    /// A policy of the root namespace covers the mesh, unless it has a selector: then it covers
    /// the root namespace's own workloads.
    pub fn new(
        root_namespace: &str,
        policies: impl IntoIterator<Item = PeerAuthentication>,
    ) -> Self {
        let mut policies: Vec<_> = policies.into_iter().map(Arc::new).collect();
        policies.sort_by_key(|policy| {
            (
                policy.created.is_none(),
                policy.created,
                Arc::clone(&policy.name),
            )
        });
        let mut all = Self::default();
        for policy in policies {
            if policy.selector.is_empty() && *policy.namespace == *root_namespace {
                all.mesh.get_or_insert(policy);
                continue;
            }
            let namespace = all
                .namespaces
                .entry(Arc::clone(&policy.namespace))
                .or_default();
            if policy.selector.is_empty() {
                namespace.whole.get_or_insert(policy);
            } else {
                namespace.workloads.push(policy);
            }
        }
        all
    }

    /// The mode in force on a workload's port, and the policy that sets it; `None` where nothing
    /// is set, which is [`MtlsMode::Permissive`].
    pub fn effective(
        &self,
        workload: &Workload,
        port: u16,
    ) -> Option<(MtlsMode, &PeerAuthentication)> {
        let namespace = self.namespaces.get(&workload.pod.namespace);
        let selected = namespace.and_then(|namespace| {
            let mut policies = namespace.workloads.iter();
            policies.find(|policy| policy.selector.matches(&workload.labels))
        });
        let on_port = selected.and_then(|policy| {
            let mode = policy.port_modes.get(&port).copied().flatten()?;
            Some((mode, policy.as_ref()))
        });
        let whole = namespace.and_then(|namespace| namespace.whole.as_ref());
        on_port.or_else(|| {
            [selected, whole, self.mesh.as_ref()]
                .into_iter()
                .flatten()
                .find_map(|policy| Some((policy.mode?, policy.as_ref())))
        })
    }

    pub(super) fn check(&self, connection: &Connection<'_>) -> Option<Denial> {
        if connection.source.is_some() {
            return None;
        }
        let port = connection.destination_address.port();
        match self.effective(connection.destination, port) {
            Some((MtlsMode::Strict, policy)) => Some(Denial {
                policy: policy.to_string().into(),
                reason: "mode STRICT requires mutual TLS and the connection is plaintext".into(),
            }),
            Some((MtlsMode::Permissive, _)) | None => None,
        }
    }
}

impl fmt::Display for PeerAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerAuthentication {}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mesh::{
        Decision, Policies,
        fixture::{ip, workload},
    };

    const ROOT: &str = "istio-system";
    const STRICT: Option<MtlsMode> = Some(MtlsMode::Strict);
    const PERMISSIVE: Option<MtlsMode> = Some(MtlsMode::Permissive);

    fn policy(namespace: &str, name: &str, mode: Option<MtlsMode>) -> PeerAuthentication {
        PeerAuthentication {
            namespace: namespace.into(),
            name: name.into(),
            created: None,
            selector: Selector::default(),
            mode,
            port_modes: BTreeMap::new(),
        }
    }

    /// For the workload `a` of namespace `foo`.
    fn selected(mode: Option<MtlsMode>, ports: &[(u16, Option<MtlsMode>)]) -> PeerAuthentication {
        PeerAuthentication {
            selector: Selector(BTreeMap::from([("app".into(), "a".into())])),
            port_modes: ports.iter().copied().collect(),
            ..policy("foo", "selected", mode)
        }
    }

    fn aged(seconds: i64, policy: PeerAuthentication) -> PeerAuthentication {
        PeerAuthentication {
            created: Some(OffsetDateTime::from_unix_timestamp(seconds).unwrap()),
            ..policy
        }
    }

    fn mode(policies: &[PeerAuthentication], name: &str, port: u16) -> Option<MtlsMode> {
        let all = PeerAuthentications::new(ROOT, policies.iter().cloned());
        let (mode, _) = all.effective(&workload(name, &["10.0.0.1"]), port)?;
        Some(mode)
    }

    #[test]
    fn nothing_is_set_without_policies() {
        assert_eq!(mode(&[], "a", 80), None);
        assert_eq!(mode(&[policy("bar", "default", STRICT)], "a", 80), None);
    }

    #[test]
    fn the_narrowest_policy_that_sets_a_mode_wins() {
        let mesh = policy(ROOT, "default", STRICT);
        assert_eq!(mode(std::slice::from_ref(&mesh), "a", 80), STRICT);
        let namespace = policy("foo", "default", PERMISSIVE);
        assert_eq!(
            mode(&[mesh.clone(), namespace.clone()], "a", 80),
            PERMISSIVE
        );
        let both = [mesh, namespace, selected(STRICT, &[])];
        assert_eq!(mode(&both, "a", 80), STRICT);
        assert_eq!(
            mode(&both, "b", 80),
            PERMISSIVE,
            "the selector does not match it"
        );
    }

    #[test]
    fn an_unset_mode_inherits() {
        let mesh = policy(ROOT, "default", STRICT);
        let namespace = policy("foo", "default", None);
        assert_eq!(mode(&[mesh.clone(), namespace.clone()], "a", 80), STRICT);
        let all = [
            mesh,
            namespace,
            selected(None, &[(80, None), (81, PERMISSIVE)]),
        ];
        assert_eq!(mode(&all, "a", 80), STRICT);
        assert_eq!(mode(&all, "a", 81), PERMISSIVE);
    }

    #[test]
    fn a_port_s_mode_is_for_that_port_and_needs_a_selector() {
        let with_selector = selected(STRICT, &[(8080, PERMISSIVE)]);
        assert_eq!(
            mode(std::slice::from_ref(&with_selector), "a", 8080),
            PERMISSIVE
        );
        assert_eq!(mode(&[with_selector], "a", 80), STRICT);
        let mut without_selector = selected(STRICT, &[(8080, PERMISSIVE)]);
        without_selector.selector = Selector::default();
        assert_eq!(mode(&[without_selector], "a", 8080), STRICT);
    }

    #[test]
    fn the_oldest_of_equals_wins_and_unknown_age_is_youngest() {
        let old = aged(1, policy("foo", "z", STRICT));
        let young = aged(2, policy("foo", "a", PERMISSIVE));
        let ageless = policy("foo", "0", PERMISSIVE);
        assert_eq!(mode(&[ageless, young, old], "a", 80), STRICT);
        let first = policy("foo", "a", STRICT);
        let second = policy("foo", "b", PERMISSIVE);
        assert_eq!(mode(&[second, first], "a", 80), STRICT);
    }

    #[test]
    fn a_root_namespace_policy_with_a_selector_leaves_other_namespaces_alone() {
        let mut root = selected(STRICT, &[]);
        root.namespace = ROOT.into();
        assert_eq!(mode(&[root], "a", 80), None);
    }

    #[test]
    fn strict_denies_plaintext_by_name_and_lets_mutual_tls_in() {
        let policies = Policies {
            peer_authentications: PeerAuthentications::new(
                ROOT,
                [policy("foo", "default", STRICT)],
            ),
            fail_closed: Vec::new(),
        };
        let destination = workload("a", &["10.0.0.1"]);
        let mut connection = Connection {
            source: None,
            source_address: (ip("10.0.0.2"), 40000).into(),
            destination: &destination,
            destination_address: (ip("10.0.0.1"), 80).into(),
        };
        let Decision::Deny(denial) = policies.authorize(&connection) else {
            panic!("plaintext was let in");
        };
        assert_eq!(&*denial.policy, "PeerAuthentication foo/default");
        connection.source = Some(&destination.identity);
        assert_eq!(policies.authorize(&connection), Decision::Allow);
    }

    #[test]
    fn a_fail_closed_policy_denies_whoever_comes_to_its_target() {
        let denial = Denial {
            policy: "AuthorizationPolicy foo/p".into(),
            reason: "not supported".into(),
        };
        let target = |namespace: Option<&str>, app: &str| super::super::Target {
            namespace: namespace.map(Arc::from),
            selector: Selector(BTreeMap::from([("app".into(), app.into())])),
        };
        let destination = workload("a", &["10.0.0.1"]);
        let connection = Connection {
            source: Some(&destination.identity),
            source_address: (ip("10.0.0.2"), 40000).into(),
            destination: &destination,
            destination_address: (ip("10.0.0.1"), 80).into(),
        };
        for (target, denied) in [
            (target(Some("foo"), "a"), true),
            (target(None, "a"), true),
            (target(Some("foo"), "b"), false),
            (target(Some("bar"), "a"), false),
        ] {
            let policies = Policies {
                peer_authentications: PeerAuthentications::default(),
                fail_closed: vec![super::super::FailClosed {
                    target: target.clone(),
                    denial: denial.clone(),
                }],
            };
            let decision = policies.authorize(&connection);
            assert_eq!(matches!(decision, Decision::Deny(_)), denied, "{target:?}");
        }
    }
}
