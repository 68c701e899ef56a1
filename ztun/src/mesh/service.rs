//! Services: virtual addresses in front of workloads.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::workload::WorkloadUid;

/// A service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub key: ServiceKey,
    /// The fully qualified name, such as `httpbin.foo.svc.cluster.local`.
    pub hostname: Arc<str>,
    /// Cluster IPs, both families; empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// The service's ports.
    pub ports: Vec<u16>,
    pub endpoints: BTreeMap<WorkloadUid, Endpoint>,
}

/// One workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Service port → the port that this workload serves it on.
    pub ports: BTreeMap<u16, u16>,
    pub ready: bool,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
