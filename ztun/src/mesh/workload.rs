//! Workloads: the pods and machines that connect and are connected to.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::identity::Identity;

/// Names one workload for as long as it lives; a pod that comes back with the same name has another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkloadUid(pub Arc<str>);

/// A pod's namespace and name, as CNI and the API server call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelProtocol {
    /// It is not enrolled: plaintext TCP to its own port.
    #[default]
    None,
    /// It is enrolled: HBONE to its address, port 15008, and nothing else.
    Hbone,
}

/// Whether a workload takes part in the mesh, as far as its source can tell.
///
/// Only what was said counts: what is not known must not set a captured pod free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// A label, its own or its namespace's, or an annotation says that it does.
    Member,
    /// It was said that it doesn't: by its own label, or by a namespace that has none.
    Outside,
    /// What would decide is missing, such as its namespace's object.
    #[default]
    Undecided,
}

/// Whether a workload takes new connections through a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    #[default]
    Healthy,
    Unhealthy,
}

/// Whether a workload has a network namespace of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    #[default]
    Pod,
    /// It shares its node's namespace and can't be enrolled.
    Host,
}

/// Where a workload runs, from the coarsest to the finest. Empty means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// The controller that made a workload, for telemetry: `deployment`, `cronjob`, `pod` or `job`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    Deployment,
    CronJob,
    #[default]
    Pod,
    Job,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub uid: WorkloadUid,
    pub pod: PodName,
    /// The pod's UID as kubelet and container runtimes know it; empty where the source doesn't tell.
    pub pod_uid: Arc<str>,
    pub membership: Membership,
    /// What its certificate says; sources validate it when they make the workload.
    pub identity: Identity,
    /// Every address it answers on, both families.
    pub addresses: Vec<IpAddr>,
    pub node: Arc<str>,
    pub tunnel_protocol: TunnelProtocol,
    pub health: Health,
    pub network_mode: NetworkMode,
    pub locality: Locality,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The name of its controller, such as the deployment's; the pod's own name where it has none.
    pub workload_name: Arc<str>,
    pub workload_kind: WorkloadKind,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster_id: Arc<str>,
    /// When it was made; `None` where the source does not tell. The newest of two claimants holds an address.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created: Option<OffsetDateTime>,
}

impl Workload {
    /// Its address of the family of `like`, or else of the other one.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|address| address.is_ipv4() == like.is_ipv4())
            .or_else(|| self.addresses.first())
            .copied()
    }
}

impl PodName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
