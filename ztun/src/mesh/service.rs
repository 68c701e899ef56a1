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

/// A service with its ready endpoints laid out for a choice in constant time.
#[derive(Debug)]
pub(super) struct RoutedService {
    pub(super) service: Arc<Service>,
    ready: BTreeMap<u16, Box<[Backend]>>,
}

/// A ready endpoint of one service port.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) workload: WorkloadUid,
    /// The workload's own port.
    pub(super) port: u16,
}

impl ServiceKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl RoutedService {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let backends = |service_port: &u16| {
            let ready = service
                .endpoints
                .iter()
                .filter(|(_, endpoint)| endpoint.ready);
            ready
                .filter_map(|(workload, endpoint)| {
                    Some(Backend {
                        workload: workload.clone(),
                        port: *endpoint.ports.get(service_port)?,
                    })
                })
                .collect()
        };
        let ready = service
            .ports
            .iter()
            .map(|port| (*port, backends(port)))
            .collect();
        Self { service, ready }
    }

    /// The ready endpoints of a service port; `None` if the service has no such port.
    pub(super) fn backends(&self, port: u16) -> Option<&[Backend]> {
        self.ready.get(&port).map(AsRef::as_ref)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
