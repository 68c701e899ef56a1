//! Asks for certificates before their pods are enrolled: the mesh state mostly knows first who is to run here.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    cert::CertificateManager,
    mesh::{
        Identity, Mesh, Snapshot,
        workload::{Membership, NetworkMode},
    },
};

/// Follows the mesh state; never returns.
pub async fn follow(node: Arc<str>, mesh: Arc<Mesh>, certificates: Arc<CertificateManager>) {
    let mut versions = mesh.versions();
    let mut held = BTreeSet::new();
    loop {
        versions.borrow_and_update();
        let wanted = identities(&node, &mesh.snapshot());
        wanted
            .difference(&held)
            .for_each(|identity| certificates.retain(identity));
        held.difference(&wanted)
            .for_each(|identity| certificates.release(identity));
        held = wanted;
        if versions.changed().await.is_err() {
            return;
        }
    }
}

/// Of the workloads that take part and can be enrolled on this node.
fn identities(node: &str, snapshot: &Snapshot) -> BTreeSet<Identity> {
    snapshot
        .workloads_on(node)
        .filter(|workload| {
            workload.membership == Membership::Member && workload.network_mode == NetworkMode::Pod
        })
        .map(|workload| workload.identity.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::mesh::{
        Workload,
        fixture::{arc, workload},
    };

    fn with(name: &str, change: impl FnOnce(&mut Workload)) -> Workload {
        let mut workload = workload(name, &[]);
        workload.identity = Identity::new("cluster.local".parse().unwrap(), "foo", name).unwrap();
        change(&mut workload);
        workload
    }

    #[test]
    fn identities_are_those_of_members_on_this_node_with_a_network_of_their_own() {
        let mut snapshot = Snapshot::default();
        for workload in [
            with("here", |_| {}),
            with("here-too", |it| it.identity = with("here", |_| {}).identity),
            with("elsewhere", |it| it.node = "other".into()),
            with("outside", |it| it.membership = Membership::Outside),
            with("undecided", |it| it.membership = Membership::Undecided),
            with("host", |it| it.network_mode = NetworkMode::Host),
        ] {
            snapshot.insert_workload(arc(workload));
        }
        let names: Vec<_> = identities("node", &snapshot)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["spiffe://cluster.local/ns/foo/sa/here"]);
    }
}
