//! `security.istio.io` `PeerAuthentication`: where mutual TLS is required.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Connection, Denial, PolicyKey, PolicyKind, Selector, Target,
    index::{Entry, Index},
    listing::Listed,
};
use crate::mesh::workload::Workload;

/// What a policy asks of connections. A mode that is unset is an absent `MtlsMode`: it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// Plaintext and mutual TLS. `DISABLE` is this too: a node proxy doesn't refuse mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl MtlsMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
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
///
/// A policy of the root namespace covers the mesh, unless it has a selector: then it is ignored, as
/// istiod ignores it.
#[derive(Clone, Debug, Default)]
pub struct PeerAuthentications(Index<PeerAuthentication>);

/// The policies for one workload, the oldest of each kind.
#[derive(Default)]
struct Applying<'a> {
    selected: Option<&'a PeerAuthentication>,
    namespace: Option<&'a PeerAuthentication>,
    mesh: Option<&'a PeerAuthentication>,
}

impl PeerAuthentications {
    pub fn new(
        root_namespace: &str,
        policies: impl IntoIterator<Item = PeerAuthentication>,
    ) -> Self {
        let mut all = Self::default();
        for policy in policies {
            let kind = PolicyKind::PeerAuthentication;
            let key = PolicyKey::new(kind, &policy.namespace, &policy.name);
            all.remove(&key);
            all.insert(root_namespace, key, policy);
        }
        all
    }

    pub(super) fn insert(
        &mut self,
        root_namespace: &str,
        key: PolicyKey,
        policy: PeerAuthentication,
    ) {
        if policy.is_ignored(root_namespace) {
            return;
        }
        let covers_mesh = *policy.namespace == *root_namespace;
        let target = Target {
            namespace: (!covers_mesh).then(|| Arc::clone(&policy.namespace)),
            selector: policy.selector.clone(),
        };
        self.0.insert(Entry::new(key, target, policy));
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) {
        self.0.remove(key);
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = Listed> {
        let effect = |policy: &PeerAuthentication| {
            let mode = policy.mode.map_or("inherited", MtlsMode::as_str);
            let ports = policy.port_modes.iter().map(|(port, mode)| {
                let mode = mode.map_or("inherited", MtlsMode::as_str);
                format!(", {mode} on port {port}")
            });
            [mode.to_owned()].into_iter().chain(ports).collect()
        };
        let entries = self.0.iter();
        entries.map(move |entry| Listed::new(entry, effect(&entry.policy)))
    }

    /// The mode in force on a workload's port, and the policy that sets it; `None` where nothing
    /// is set, which is [`MtlsMode::Permissive`].
    ///
    /// The oldest policy wins where several cover the same; one of unknown age counts as youngest,
    /// and the name decides between equals.
    pub fn effective(
        &self,
        workload: &Workload,
        port: u16,
    ) -> Option<(MtlsMode, &PeerAuthentication)> {
        let applying = self.applying(workload);
        let on_port = applying.selected.and_then(|policy| {
            let mode = policy.port_modes.get(&port).copied().flatten()?;
            Some((mode, policy))
        });
        on_port.or_else(|| {
            [applying.selected, applying.namespace, applying.mesh]
                .into_iter()
                .flatten()
                .find_map(|policy| Some((policy.mode?, policy)))
        })
    }

    fn applying(&self, workload: &Workload) -> Applying<'_> {
        let mut applying = Applying::default();
        for entry in self.0.applying(workload) {
            let policy = &entry.policy;
            let oldest = if !policy.selector.is_empty() {
                &mut applying.selected
            } else if entry.covers_mesh() {
                &mut applying.mesh
            } else {
                &mut applying.namespace
            };
            if oldest.is_none_or(|oldest| policy.age() < oldest.age()) {
                *oldest = Some(policy);
            }
        }
        applying
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
                hint: "enrol the client, or make this port PERMISSIVE while clients move".into(),
            }),
            Some((MtlsMode::Permissive, _)) | None => None,
        }
    }
}

impl PeerAuthentication {
    /// What its author is told where [`Self::is_ignored`].
    pub const IGNORED: &str = "with a selector, a PeerAuthentication of the root namespace has no effect, as in Istio: put it into the namespace of the workloads";

    pub fn is_ignored(&self, root_namespace: &str) -> bool {
        !self.selector.is_empty() && *self.namespace == *root_namespace
    }

    /// In order: the oldest first.
    pub(crate) fn age(&self) -> (bool, Option<OffsetDateTime>, &str) {
        (self.created.is_none(), self.created, &self.name)
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
    use crate::mesh::fixture::workload;

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
    fn a_root_namespace_policy_with_a_selector_is_ignored_in_its_own_namespace_too() {
        let mut root = selected(STRICT, &[]);
        root.namespace = ROOT.into();
        assert_eq!(mode(std::slice::from_ref(&root), "a", 80), None);
        let mut own = workload("a", &["10.0.0.1"]);
        own.pod.namespace = ROOT.into();
        let all = PeerAuthentications::new(ROOT, [root]);
        assert!(all.effective(&own, 80).is_none());
    }
}
