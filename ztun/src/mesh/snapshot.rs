//! One immutable view of the mesh, and the place where the newest one is found.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use imbl::{OrdMap, OrdSet};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use tokio::sync::watch;

use super::{
    claims::{Claimant, Claims},
    policy::{Connection, Decision, Policies, Policy, PolicyKey},
    service::{RoutedService, Service, ServiceKey},
    workload::{NetworkMode, PodName, Workload, WorkloadUid},
};

/// Everything that the proxy needs to decide, at one moment.
///
/// Built by a source with the `insert` and `remove` methods and then published. A clone shares
/// all that it has in common with its original, so that publishing after each change is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    workloads: OrdMap<WorkloadUid, Arc<Workload>>,
    pods: OrdMap<PodName, Arc<Workload>>,
    addresses: Claims<Workload>,
    nodes: OrdMap<Arc<str>, OrdSet<WorkloadUid>>,
    services: OrdMap<ServiceKey, Arc<RoutedService>>,
    vips: Claims<RoutedService>,
    policies: Arc<Policies>,
}

impl Snapshot {
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    pub fn workload_by_pod(&self, pod: &PodName) -> Option<&Arc<Workload>> {
        self.pods.get(pod)
    }

    /// The workload that answers on `address`. A node's own address, which host-network pods
    /// share, belongs to none of them.
    pub fn workload_by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.addresses.holder(address.to_canonical())
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        Some(&self.services.get(key)?.service)
    }

    pub fn service_by_vip(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        Some(&self.routed_service(vip)?.service)
    }

    /// Every workload, by UID.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads of one node, by UID; without a look at those of others.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> {
        let uids = self.nodes.get(node).into_iter().flatten();
        uids.filter_map(|uid| self.workloads.get(uid))
    }

    /// Every service, by namespace and name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values().map(|routed| &routed.service)
    }

    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Addresses that several workloads claim, the one that holds it first.
    pub fn contested_addresses(&self) -> impl Iterator<Item = (IpAddr, &[Arc<Workload>])> {
        self.addresses.contested()
    }

    /// Virtual addresses that several services claim, the one that holds it first.
    pub fn contested_vips(&self) -> impl Iterator<Item = (IpAddr, Vec<&ServiceKey>)> {
        self.vips.contested().map(|(vip, services)| {
            let keys = services.iter().map(|routed| &routed.service.key);
            (vip, keys.collect())
        })
    }

    /// Whether `connection` may enter its destination.
    pub fn authorize(&self, connection: &Connection<'_>) -> Decision {
        self.policies.authorize(connection)
    }

    /// Adds a workload, or replaces the one with the same UID.
    pub fn insert_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.uid);
        if workload.network_mode == NetworkMode::Pod {
            for address in &workload.addresses {
                self.addresses.insert(address.to_canonical(), &workload);
            }
        }
        let node = self.nodes.entry(Arc::clone(&workload.node)).or_default();
        node.insert(workload.uid.clone());
        self.pods
            .insert(workload.pod.clone(), Arc::clone(&workload));
        self.workloads.insert(workload.uid.clone(), workload);
    }

    pub fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(workload) = self.workloads.remove(uid) else {
            return;
        };
        for address in &workload.addresses {
            self.addresses.remove(address.to_canonical(), &workload);
        }
        if let Some(node) = self.nodes.get_mut(&workload.node) {
            node.remove(uid);
            if node.is_empty() {
                self.nodes.remove(&workload.node);
            }
        }
        // A pod that came back under its name may already have replaced this one.
        if self
            .pods
            .get(&workload.pod)
            .is_some_and(|current| current.uid == *uid)
        {
            self.pods.remove(&workload.pod);
        }
    }

    /// Adds a service, or replaces the one with the same key.
    pub fn insert_service(&mut self, service: Arc<Service>) {
        let before = self.take_service(&service.key);
        let routed = Arc::new(match before {
            Some(before) => before.updated(service),
            None => RoutedService::new(service),
        });
        for vip in &routed.service.vips {
            self.vips.insert(vip.to_canonical(), &routed);
        }
        self.services.insert(routed.service.key.clone(), routed);
    }

    pub fn remove_service(&mut self, key: &ServiceKey) {
        self.take_service(key);
    }

    pub fn set_policies(&mut self, policies: Policies) {
        self.policies = Arc::new(policies);
    }

    /// Adds a policy, or replaces the one with the same key.
    pub fn insert_policy(&mut self, key: PolicyKey, policy: Policy) {
        Arc::make_mut(&mut self.policies).insert(key, policy);
    }

    pub fn remove_policy(&mut self, key: &PolicyKey) {
        Arc::make_mut(&mut self.policies).remove(key);
    }

    fn take_service(&mut self, key: &ServiceKey) -> Option<Arc<RoutedService>> {
        let routed = self.services.remove(key)?;
        for vip in &routed.service.vips {
            self.vips.remove(vip.to_canonical(), &routed);
        }
        Some(routed)
    }

    pub(super) fn routed_service(&self, vip: IpAddr) -> Option<&Arc<RoutedService>> {
        self.vips.holder(vip.to_canonical())
    }
}

/// Workloads, services and policies, for people to read.
impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut snapshot = serializer.serialize_struct("Snapshot", 3)?;
        snapshot.serialize_field("workloads", &self.workloads().collect::<Vec<_>>())?;
        snapshot.serialize_field("services", &self.services().collect::<Vec<_>>())?;
        snapshot.serialize_field("policies", &*self.policies)?;
        snapshot.end()
    }
}

/// An address that is used again soon after a pod's end is the common cause of two claims, so the
/// newest workload holds it; one of unknown age counts as oldest.
impl Claimant for Workload {
    fn precedence(&self, other: &Self) -> Ordering {
        other
            .created
            .cmp(&self.created)
            .then_with(|| self.uid.cmp(&other.uid))
    }
}

impl Claimant for RoutedService {
    fn precedence(&self, other: &Self) -> Ordering {
        self.service.key.cmp(&other.service.key)
    }
}

/// The newest snapshot, and a signal when it changes. Readers never wait.
#[derive(Debug)]
pub struct Mesh {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl Mesh {
    /// A mesh of which nothing is known yet: [`Mesh::synced`] is false until the first publish.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Snapshot::default()),
            version: watch::Sender::new(0),
        })
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.version.send_modify(|version| *version += 1);
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub fn synced(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Changes once for each published snapshot; 0 is "nothing published yet".
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::{arc, born, ip, service, uid, workload};

    fn name_at(snapshot: &Snapshot, address: &str) -> Option<String> {
        let workload = snapshot.workload_by_address(ip(address))?;
        Some(workload.pod.name.to_string())
    }

    #[test]
    fn a_workload_is_found_by_uid_pod_and_every_address() {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1", "fd00::1"])));
        assert!(snapshot.workload(&uid("a")).is_some());
        assert!(
            snapshot
                .workload_by_pod(&PodName::new("foo", "a"))
                .is_some()
        );
        for address in ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
            assert_eq!(
                name_at(&snapshot, address).as_deref(),
                Some("a"),
                "{address}"
            );
        }
        assert_eq!(name_at(&snapshot, "10.0.0.2"), None);
    }

    #[test]
    fn a_removed_workload_is_found_nowhere() {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1"])));
        snapshot.remove_workload(&uid("a"));
        assert!(snapshot.workload(&uid("a")).is_none());
        assert!(
            snapshot
                .workload_by_pod(&PodName::new("foo", "a"))
                .is_none()
        );
        assert_eq!(name_at(&snapshot, "10.0.0.1"), None);
    }

    #[test]
    fn a_workload_that_moves_leaves_its_old_address() {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1"])));
        snapshot.insert_workload(arc(workload("a", &["10.0.0.2"])));
        assert_eq!(name_at(&snapshot, "10.0.0.1"), None);
        assert_eq!(name_at(&snapshot, "10.0.0.2").as_deref(), Some("a"));
    }

    #[test]
    fn the_newest_of_two_claimants_holds_an_address_whatever_the_order() {
        let old = arc(born(1, workload("old", &["10.0.0.1"])));
        let new = arc(born(2, workload("new", &["10.0.0.1"])));
        for order in [[&old, &new], [&new, &old]] {
            let mut snapshot = Snapshot::default();
            for workload in order {
                snapshot.insert_workload(Arc::clone(workload));
            }
            assert_eq!(name_at(&snapshot, "10.0.0.1").as_deref(), Some("new"));
            assert_eq!(snapshot.contested_addresses().count(), 1);

            snapshot.remove_workload(&uid("new"));
            assert_eq!(name_at(&snapshot, "10.0.0.1").as_deref(), Some("old"));
            assert_eq!(snapshot.contested_addresses().count(), 0);
        }
    }

    #[test]
    fn host_network_workloads_claim_no_address() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            let mut host = workload(name, &["10.0.0.1"]);
            host.network_mode = NetworkMode::Host;
            snapshot.insert_workload(arc(host));
        }
        assert_eq!(name_at(&snapshot, "10.0.0.1"), None);
        assert_eq!(snapshot.contested_addresses().count(), 0);
    }

    #[test]
    fn a_pod_that_came_back_outlives_its_predecessor() {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1"])));
        let mut successor = workload("a", &["10.0.0.2"]);
        successor.uid = uid("a/second");
        snapshot.insert_workload(arc(successor));
        snapshot.remove_workload(&uid("a"));
        let found = snapshot.workload_by_pod(&PodName::new("foo", "a"));
        assert_eq!(found.map(|workload| &workload.uid), Some(&uid("a/second")));
    }

    #[test]
    fn a_published_snapshot_is_untouched_by_later_changes() {
        let mesh = Mesh::empty();
        assert!(!mesh.synced());
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1"])));
        snapshot.insert_service(arc(service("s", &["10.1.0.1"], &[])));
        mesh.publish(snapshot.clone());
        snapshot.remove_workload(&uid("a"));
        snapshot.remove_service(&ServiceKey::new("foo", "s"));
        assert!(mesh.synced());
        assert!(mesh.snapshot().workload(&uid("a")).is_some());
        assert!(mesh.snapshot().service_by_vip(ip("10.1.0.1")).is_some());
        assert!(snapshot.service_by_vip(ip("10.1.0.1")).is_none());
    }

    #[test]
    fn watchers_learn_of_each_published_snapshot() {
        let mesh = Mesh::empty();
        let mut versions = mesh.versions();
        assert_eq!(*versions.borrow_and_update(), 0);
        mesh.publish(Snapshot::default());
        assert_eq!(*versions.borrow_and_update(), 1);
    }
}
