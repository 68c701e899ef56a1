//! What a service makes of one pod, machine or address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    mesh::Endpoint,
    source::{
        kubernetes_objects::{
            Labels, Object,
            core::{self, Pod, Protocol, ServicePort, TargetPort},
            networking::{ServiceEntry, ServiceEntryPort, WorkloadEntry},
        },
        translate::{members::Member, workload},
    },
};

/// A service with a selector, as it looks at one member.
pub(super) enum Offer<'a> {
    Service(&'a core::Service),
    ServiceEntry(&'a Labels, &'a [ServiceEntryPort]),
}

impl<'a> Offer<'a> {
    /// `None` if it selects nothing.
    pub(super) fn of(object: &'a Object) -> Option<Self> {
        match object {
            Object::Service(service) => Self::of_service(service),
            Object::ServiceEntry(entry) => Self::of_service_entry(entry),
            _ => None,
        }
    }

    pub(super) fn of_service(service: &'a core::Service) -> Option<Self> {
        (!service.spec.selector.is_empty()).then_some(Self::Service(service))
    }

    pub(super) fn of_service_entry(entry: &'a ServiceEntry) -> Option<Self> {
        let selector = entry.spec.workload_selector.as_ref()?;
        Some(Self::ServiceEntry(&selector.labels, &entry.spec.ports))
    }

    pub(super) fn selector(&self) -> &'a Labels {
        match self {
            Self::Service(service) => &service.spec.selector,
            Self::ServiceEntry(selector, _) => selector,
        }
    }

    /// The member as an endpoint, if it is selected and has an address.
    pub(super) fn endpoint(&self, member: &Member) -> Option<Endpoint> {
        if member.workload.addresses.is_empty() || !selects(self.selector(), member.labels()) {
            return None;
        }
        let publishes_not_ready = match self {
            Self::Service(service) => service.spec.publish_not_ready_addresses,
            Self::ServiceEntry(..) => false,
        };
        let ready = member
            .pod()
            .is_none_or(|pod| workload::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        Some(Endpoint {
            ports: Arc::new(self.ports(member)),
            ready: ready || publishes_not_ready,
        })
    }

    fn ports(&self, member: &Member) -> BTreeMap<u16, u16> {
        match self {
            Self::Service(service) => {
                let ports = tcp(&service.spec.ports);
                let target = |port: &ServicePort| match (member.pod(), member.entry()) {
                    (Some(pod), _) => pod_port(port, pod),
                    (None, entry) => Some(entry_port(port, entry?)),
                };
                let target = |port: &ServicePort| Some((port.port, target(port)?));
                ports.filter_map(target).collect()
            }
            Self::ServiceEntry(_, ports) => {
                let own = |port: &ServiceEntryPort| {
                    let own = &member.entry()?.spec.ports;
                    own.get(&port.name).copied()
                };
                let target = |port| own(port).unwrap_or_else(|| default_target(port));
                let ports = ports.iter();
                ports.map(|port| (port.number, target(port))).collect()
            }
        }
    }
}

/// The endpoints that a service entry lists itself.
pub(super) fn written_out(
    entry: &ServiceEntry,
    problems: &mut Vec<String>,
) -> impl Iterator<Item = (IpAddr, Endpoint)> + use<> {
    let mut written = Vec::new();
    for (index, listed) in entry.spec.endpoints.iter().enumerate() {
        let Some(address) = listed.ip() else {
            problems.push(format!(
                "spec.endpoints[{index}].address: `{}` is not an IP address: host names are not resolved",
                listed.address
            ));
            continue;
        };
        let port = |port: &ServiceEntryPort| {
            let own = listed.ports.get(&port.name).copied();
            (port.number, own.unwrap_or_else(|| default_target(port)))
        };
        let ports: BTreeMap<u16, u16> = entry.spec.ports.iter().map(port).collect();
        let endpoint = Endpoint {
            ports: Arc::new(ports),
            ready: true,
        };
        written.push((address, endpoint));
    }
    written.into_iter()
}

pub(super) fn tcp(ports: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    let mut seen = BTreeSet::new();
    ports
        .iter()
        .filter(move |port| port.protocol == Protocol::Tcp && seen.insert(port.port))
}

/// `None` where the pod has no port of the name that the service asks for.
fn pod_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => pod.named_port(name),
    }
}

fn entry_port(port: &ServicePort, entry: &WorkloadEntry) -> u16 {
    let own = &entry.spec.ports;
    let named = match &port.target_port {
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => own.get(name).copied(),
        None => None,
    };
    let by_port_name = || own.get(&port.name).copied();
    named.or_else(by_port_name).unwrap_or(port.port)
}

fn default_target(port: &ServiceEntryPort) -> u16 {
    port.target_port.unwrap_or(port.number)
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    let mut wanted = selector.iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}
