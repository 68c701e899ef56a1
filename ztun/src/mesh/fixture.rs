//! Workloads and services for tests.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use time::OffsetDateTime;

use super::{
    Endpoint, Identity, PodName, Service, ServiceKey, Workload, WorkloadUid,
    workload::{Health, Locality, Membership, NetworkMode, TunnelProtocol, WorkloadKind},
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn uid(name: &str) -> WorkloadUid {
    WorkloadUid(format!("test//Pod/foo/{name}").into())
}

/// A pod of namespace `foo`.
pub(crate) fn workload(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: uid(name),
        pod: PodName::new("foo", name),
        pod_uid: "".into(),
        membership: Membership::Member,
        identity: Identity::new("cluster.local".parse().unwrap(), "foo", "default").unwrap(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        node: "node".into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        network_mode: NetworkMode::Pod,
        locality: Locality::default(),
        labels: BTreeMap::from([("app".into(), name.into())]),
        workload_name: name.into(),
        workload_kind: WorkloadKind::Pod,
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        cluster_id: "test".into(),
        created: None,
    }
}

pub(crate) fn born(seconds: i64, workload: Workload) -> Workload {
    Workload {
        created: Some(OffsetDateTime::from_unix_timestamp(seconds).unwrap()),
        ..workload
    }
}

/// A service of namespace `foo` whose port 80 is its endpoints' port 8080.
pub(crate) fn service(name: &str, vips: &[&str], endpoints: &[(&str, bool)]) -> Service {
    let endpoint = |(workload, ready): &(&str, bool)| {
        let endpoint = Endpoint {
            ports: BTreeMap::from([(80, 8080)]).into(),
            ready: *ready,
        };
        (uid(workload), endpoint)
    };
    Service {
        key: ServiceKey::new("foo", name),
        hostname: format!("{name}.foo.svc.cluster.local").into(),
        vips: vips.iter().map(|vip| ip(vip)).collect(),
        ports: vec![80],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

pub(crate) fn arc<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
