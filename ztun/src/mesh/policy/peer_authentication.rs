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
