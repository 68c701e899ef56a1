//! Services: virtual addresses in front of workloads.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{chunked::ChunkedMap, workload::WorkloadUid};

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
    pub endpoints: ChunkedMap<WorkloadUid, Endpoint>,
}

/// One workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Service port → the port that this workload serves it on. Endpoints share them.
    pub ports: Arc<BTreeMap<u16, u16>>,
    pub ready: bool,
}

/// A service with its ready endpoints laid out for a choice among them.
#[derive(Debug)]
pub(super) struct RoutedService {
    pub(super) service: Arc<Service>,
    ready: BTreeMap<u16, Backends>,
}

/// The ready endpoints of one service port, each with the workload's own port.
pub(super) type Backends = ChunkedMap<WorkloadUid, u16>;

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
            let endpoints = service.endpoints.iter();
            let ready = endpoints.filter_map(|(workload, endpoint)| {
                Some((workload.clone(), ready_port(endpoint, *service_port)?))
            });
            ready.collect()
        };
        let ports = service.ports.iter();
        let ready = ports.map(|port| (*port, backends(port))).collect();
        Self { service, ready }
    }

    /// As [`Self::new`], at the cost of what differs from `self`, an earlier version.
    pub(super) fn updated(&self, service: Arc<Service>) -> Self {
        if self.service.ports != service.ports {
            return Self::new(service);
        }
        let mut ready = self.ready.clone();
        for difference in self.service.endpoints.differences(&service.endpoints) {
            let key = difference.key;
            for (service_port, backends) in &mut ready {
                let port = difference
                    .after
                    .and_then(|after| ready_port(after, *service_port));
                match port {
                    Some(port) if backends.get(key) == Some(&port) => {}
                    Some(port) => backends.insert(key.clone(), port),
                    None => backends.remove(key),
                }
            }
        }
        Self { service, ready }
    }

    /// The ready endpoints of a service port; `None` if the service has no such port.
    pub(super) fn backends(&self, port: u16) -> Option<&Backends> {
        self.ready.get(&port)
    }
}

fn ready_port(endpoint: &Endpoint, service_port: u16) -> Option<u16> {
    let port = endpoint.ports.get(&service_port).copied();
    port.filter(|_| endpoint.ready)
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
