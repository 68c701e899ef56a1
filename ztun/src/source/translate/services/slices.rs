//! Endpoint slices: what each says of its service, and which of them a pod's change concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    mesh::{Endpoint, WorkloadUid, chunked::ChunkedMap},
    source::{
        kubernetes_objects::{
            core::{Protocol, ServicePort},
            discovery::{AddressType, EndpointSlice},
        },
        translate::members::Members,
    },
};

/// What one slice says, given the members of its namespace.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) endpoints: ChunkedMap<WorkloadUid, Endpoint>,
    /// Workloads of its endpoints that are addresses only.
    pub(super) addresses: Vec<WorkloadUid>,
    /// Whose change changes it.
    pods: Vec<Arc<str>>,
    looked_up: Vec<IpAddr>,
}

/// Slices by the pods and addresses that they depend on.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pods: BTreeSet<(Arc<str>, Arc<str>)>,
    addresses: BTreeSet<(IpAddr, Arc<str>)>,
}

impl Resolved {
    /// `address_only` makes a workload of an address that is none of the members'.
    pub(super) fn new(
        ports: &[&ServicePort],
        slice: &EndpointSlice,
        members: &Members,
        address_only: &mut impl FnMut(IpAddr) -> Option<WorkloadUid>,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut resolved = Self {
            endpoints: ChunkedMap::new(),
            addresses: Vec::new(),
            pods: Vec::new(),
            looked_up: Vec::new(),
        };
        if slice.address_type == AddressType::Fqdn {
            let message = "its endpoint slice holds host names, which are not resolved";
            problems.push(message.to_owned());
            return resolved;
        }
        let ports = Arc::new(slice_ports(ports, slice));
        let mut endpoints: BTreeMap<WorkloadUid, Endpoint> = BTreeMap::new();
        for listed in &slice.endpoints {
            let target = listed
                .target_ref
                .as_ref()
                .filter(|target| &*target.kind == "Pod");
            let pod = target.and_then(|target| {
                resolved.pods.push(Arc::clone(&target.name));
                members.pod(&target.name)
            });
            let uids = match pod {
                Some(pod) => vec![pod.workload.uid.clone()],
                None => resolved.by_addresses(&listed.addresses, members, address_only, problems),
            };
            for uid in uids {
                let endpoint = endpoints.entry(uid).or_insert_with(|| Endpoint {
                    ports: Arc::clone(&ports),
                    ready: false,
                });
                endpoint.ready |= listed.conditions.ready.unwrap_or(true);
            }
        }
        resolved.endpoints = endpoints.into_iter().collect();
        resolved
    }

    /// The workloads of addresses that no pod is named for: known ones of the namespace, or new ones.
    fn by_addresses(
        &mut self,
        addresses: &[Arc<str>],
        members: &Members,
        address_only: &mut impl FnMut(IpAddr) -> Option<WorkloadUid>,
        problems: &mut Vec<String>,
    ) -> Vec<WorkloadUid> {
        let mut uids = Vec::new();
        for text in addresses {
            let Ok(address) = text.parse::<IpAddr>() else {
                problems.push(format!(
                    "its endpoint slice lists `{text}`, which is not an IP address"
                ));
                continue;
            };
            let address = address.to_canonical();
            self.looked_up.push(address);
            if let Some(pod) = members.pod_at(address) {
                uids.push(pod.workload.uid.clone());
            } else if let Some(uid) = address_only(address) {
                self.addresses.push(uid.clone());
                uids.push(uid);
            }
        }
        uids
    }
}

impl Dependencies {
    pub(super) fn insert(&mut self, slice: &Arc<str>, resolved: &Resolved) {
        let slice = || Arc::clone(slice);
        let pods = resolved.pods.iter();
        self.pods.extend(pods.map(|pod| (Arc::clone(pod), slice())));
        let addresses = resolved.looked_up.iter();
        self.addresses
            .extend(addresses.map(|address| (*address, slice())));
    }

    pub(super) fn remove(&mut self, slice: &Arc<str>, resolved: &Resolved) {
        for pod in &resolved.pods {
            self.pods.remove(&(Arc::clone(pod), Arc::clone(slice)));
        }
        for address in &resolved.looked_up {
            self.addresses.remove(&(*address, Arc::clone(slice)));
        }
    }

    /// The slices that name the pod or one of the addresses.
    pub(super) fn on(
        &self,
        pod: &Arc<str>,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> BTreeSet<Arc<str>> {
        let by_pod = self.pods.range((Arc::clone(pod), Arc::default())..);
        let by_pod = by_pod.take_while(|(name, _)| name == pod);
        let by_address = addresses.flat_map(|address| {
            let slices = self.addresses.range((address, Arc::default())..);
            slices.take_while(move |(other, _)| *other == address)
        });
        let by_pod = by_pod.map(|(_, slice)| slice);
        let by_address = by_address.map(|(_, slice)| slice);
        by_pod.chain(by_address).cloned().collect()
    }
}

/// What all slices of a service say of one endpoint: a dual-stack service has a slice a family.
pub(super) fn merged(slices: &BTreeMap<Arc<str>, Resolved>, uid: &WorkloadUid) -> Option<Endpoint> {
    let mut said = slices
        .values()
        .filter_map(|resolved| resolved.endpoints.get(uid));
    let mut merged = said.next()?.clone();
    for endpoint in said {
        merged.ready |= endpoint.ready;
        if merged.ports != endpoint.ports {
            let ports = Arc::make_mut(&mut merged.ports);
            ports.extend(endpoint.ports.iter());
        }
    }
    Some(merged)
}

/// Service port → endpoint port: a slice's ports bear the names of the service's.
fn slice_ports(ports: &[&ServicePort], slice: &EndpointSlice) -> BTreeMap<u16, u16> {
    let by_name = |port: &&ServicePort| {
        let mut of_slice = slice.ports.iter();
        let found = of_slice
            .find(|of_slice| of_slice.protocol == Protocol::Tcp && of_slice.name == port.name);
        Some((port.port, found?.port?))
    };
    ports.iter().filter_map(by_name).collect()
}
