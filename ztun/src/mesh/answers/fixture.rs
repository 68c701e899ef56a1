//! A mesh of two nodes for the tests of this folder.

use super::Query;
use crate::mesh::{
    Snapshot, Workload,
    fixture::{arc, service, workload},
    workload::TunnelProtocol,
};

pub(super) fn query(source: &str, destination: &str) -> Query {
    Query {
        source: source.to_owned(),
        destination: destination.parse().unwrap(),
    }
}

/// `client` and `near` on one node, `far` and `neighbour` on another, and `outside`, which is not
/// enrolled; services before `far`, before `far` and `near`, and before what isn't ready.
pub(super) fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, address, node) in [
        ("client", "10.0.0.1", "a"),
        ("far", "10.0.0.2", "b"),
        ("near", "10.0.0.3", "a"),
        ("neighbour", "10.0.0.5", "b"),
    ] {
        snapshot.insert_workload(arc(Workload {
            node: node.into(),
            ..workload(name, &[address])
        }));
    }
    snapshot.insert_workload(arc(Workload {
        node: "a".into(),
        tunnel_protocol: TunnelProtocol::None,
        ..workload("outside", &["10.0.0.4"])
    }));
    for (name, vip, endpoints) in [
        ("far", "10.1.0.1", &[("far", true)][..]),
        ("both", "10.1.0.2", &[("far", true), ("near", true)]),
        ("down", "10.1.0.3", &[("far", false)]),
    ] {
        snapshot.insert_service(arc(service(name, &[vip], endpoints)));
    }
    snapshot
}
