//! Services and what stands behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    namespace::{EntryMember, Members, PodMember, Translated},
    workload,
};
use crate::{
    mesh::{Endpoint, Service, ServiceKey, WorkloadUid},
    source::kubernetes_objects::{
        Labels, ObjectKey, core,
        core::{Protocol, ServicePort, TargetPort},
        discovery::{AddressType, EndpointSlice},
        networking::{Resolution, ServiceEntry, ServiceEntryPort},
    },
};

type Endpoints = BTreeMap<WorkloadUid, Endpoint>;

/// A Kubernetes service: by its endpoint slices, or by its selector where it has none.
pub(super) fn of_service(
    key: &ObjectKey,
    object: &core::Service,
    members: &Members<'_>,
    translated: &mut Translated,
) {
    let ports: Vec<&ServicePort> = tcp(&object.spec.ports).collect();
    let endpoints = match members.slices.get(&*key.name) {
        Some(slices) => from_slices(key, &ports, slices, members, translated),
        None => from_selector(object, &ports, members),
    };
    translated.services.push(Service {
        key: ServiceKey::new(members.namespace, &key.name),
        hostname: format!(
            "{}.{}.svc.{}",
            key.name, members.namespace, members.settings.cluster_domain
        )
        .into(),
        vips: object.spec.vips(),
        ports: ports.iter().map(|port| port.port).collect(),
        endpoints,
    });
}

/// A service outside of Kubernetes' own: its endpoints written out, or selected by labels.
pub(super) fn of_service_entry(
    key: &ObjectKey,
    entry: &ServiceEntry,
    members: &Members<'_>,
    translated: &mut Translated,
) {
    let spec = &entry.spec;
    if spec.resolution != Resolution::Static {
        let message = "spec.resolution: only STATIC is supported: connections to it pass through";
        return translated.problem(key, message);
    }
    let Some(host) = spec.hosts.first() else {
        return translated.problem(key, "spec.hosts: must name at least one host");
    };
    let vips = spec.addresses.iter().filter_map(|address| {
        let vip = address.parse::<IpAddr>();
        if vip.is_err() {
            let message =
                format!("spec.addresses: `{address}` is not an IP address and is left out");
            translated.problem(key, message);
        }
        Some(vip.ok()?.to_canonical())
    });
    let vips = vips.collect();
    let endpoints = match &spec.workload_selector {
        Some(selector) => selected_by_entry(&selector.labels, &spec.ports, members),
        None => written_out(key, entry, members, translated),
    };
    translated.services.push(Service {
        // By host, as the peer has it: a Service of the same name is another one.
        key: ServiceKey::new(members.namespace, host),
        hostname: Arc::clone(host),
        vips,
        ports: spec.ports.iter().map(|port| port.number).collect(),
        endpoints,
    });
}

fn from_slices(
    key: &ObjectKey,
    ports: &[&ServicePort],
    slices: &[&EndpointSlice],
    members: &Members<'_>,
    translated: &mut Translated,
) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for slice in slices {
        if slice.address_type == AddressType::Fqdn {
            translated.problem(
                key,
                "its endpoint slice holds host names, which are not resolved",
            );
            continue;
        }
        let ports = slice_ports(ports, slice);
        for listed in &slice.endpoints {
            let target = listed
                .target_ref
                .as_ref()
                .filter(|target| &*target.kind == "Pod");
            let pod = target.and_then(|target| members.pods.get(&*target.name));
            let uids = match pod {
                Some(pod) => vec![pod.uid.clone()],
                None => by_addresses(key, &listed.addresses, members, translated),
            };
            // A dual-stack service has a slice a family: the endpoint is one.
            for uid in uids {
                let endpoint = endpoints.entry(uid).or_insert_with(|| Endpoint {
                    ports: BTreeMap::new(),
                    ready: false,
                });
                endpoint.ready |= listed.conditions.ready.unwrap_or(true);
                endpoint.ports.extend(&ports);
            }
        }
    }
    endpoints
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

/// The workloads of addresses that no pod is named for: known ones of the namespace, or new ones.
fn by_addresses(
    key: &ObjectKey,
    addresses: &[Arc<str>],
    members: &Members<'_>,
    translated: &mut Translated,
) -> Vec<WorkloadUid> {
    let mut uids = Vec::new();
    for text in addresses {
        let Ok(address) = text.parse::<IpAddr>() else {
            translated.problem(
                key,
                format!("its endpoint slice lists `{text}`, which is not an IP address"),
            );
            continue;
        };
        let address = address.to_canonical();
        let mut pods = members.pods.values();
        let known = pods.find(|pod| !pod.pod.spec.host_network && pod.addresses.contains(&address));
        match known {
            Some(pod) => uids.push(pod.uid.clone()),
            None => uids.extend(address_only(key, address, members, translated)),
        }
    }
    uids
}

/// Makes a workload of a bare address.
fn address_only(
    key: &ObjectKey,
    address: IpAddr,
    members: &Members<'_>,
    translated: &mut Translated,
) -> Option<WorkloadUid> {
    match workload::of_address(members.namespace, &key.name, address, members.settings) {
        Ok(workload) => {
            let uid = workload.uid.clone();
            translated.address(workload, key);
            Some(uid)
        }
        Err(error) => {
            translated.problem(key, error.to_string());
            None
        }
    }
}

fn from_selector(
    object: &core::Service,
    ports: &[&ServicePort],
    members: &Members<'_>,
) -> Endpoints {
    let selector = &object.spec.selector;
    if selector.is_empty() {
        return Endpoints::new();
    }
    let pods = members.pods.values().filter(|member| {
        !member.addresses.is_empty() && selects(selector, &member.pod.metadata.labels)
    });
    let of_pods = pods.map(|member| {
        let ready =
            workload::is_ready(member.pod) && member.pod.metadata.deletion_timestamp.is_none();
        let endpoint = Endpoint {
            ports: ports
                .iter()
                .filter_map(|port| pod_port(port, member))
                .collect(),
            ready: ready || object.spec.publish_not_ready_addresses,
        };
        (member.uid.clone(), endpoint)
    });
    let entries = selected_entries(selector, members);
    let of_entries = entries.map(|member| {
        let port = |port: &&ServicePort| {
            let named = match &port.target_port {
                Some(TargetPort::Number(number)) => Some(*number),
                Some(TargetPort::Name(name)) => member.entry.spec.ports.get(name).copied(),
                None => None,
            };
            let by_port_name = || member.entry.spec.ports.get(&port.name).copied();
            (port.port, named.or_else(by_port_name).unwrap_or(port.port))
        };
        let endpoint = Endpoint {
            ports: ports.iter().map(port).collect(),
            ready: true,
        };
        (member.uid.clone(), endpoint)
    });
    of_pods.chain(of_entries).collect()
}

fn selected_by_entry(
    selector: &Labels,
    ports: &[ServiceEntryPort],
    members: &Members<'_>,
) -> Endpoints {
    let target = |port: &ServiceEntryPort| port.target_port.unwrap_or(port.number);
    let pods = members.pods.values().filter(|member| {
        !member.addresses.is_empty() && selects(selector, &member.pod.metadata.labels)
    });
    let of_pods = pods.map(|member| {
        let endpoint = Endpoint {
            ports: ports
                .iter()
                .map(|port| (port.number, target(port)))
                .collect(),
            ready: workload::is_ready(member.pod)
                && member.pod.metadata.deletion_timestamp.is_none(),
        };
        (member.uid.clone(), endpoint)
    });
    let of_entries = selected_entries(selector, members).map(|member| {
        let port = |port: &ServiceEntryPort| {
            let own = member.entry.spec.ports.get(&port.name).copied();
            (port.number, own.unwrap_or_else(|| target(port)))
        };
        let endpoint = Endpoint {
            ports: ports.iter().map(port).collect(),
            ready: true,
        };
        (member.uid.clone(), endpoint)
    });
    of_pods.chain(of_entries).collect()
}

fn written_out(
    key: &ObjectKey,
    entry: &ServiceEntry,
    members: &Members<'_>,
    translated: &mut Translated,
) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for (index, listed) in entry.spec.endpoints.iter().enumerate() {
        let Some(address) = listed.ip() else {
            let message = format!(
                "spec.endpoints[{index}].address: `{}` is not an IP address: host names are not resolved",
                listed.address
            );
            translated.problem(key, message);
            continue;
        };
        let Some(uid) = address_only(key, address, members, translated) else {
            continue;
        };
        let port = |port: &ServiceEntryPort| {
            let own = listed.ports.get(&port.name).copied();
            (port.number, own.or(port.target_port).unwrap_or(port.number))
        };
        let endpoint = Endpoint {
            ports: entry.spec.ports.iter().map(port).collect(),
            ready: true,
        };
        endpoints.insert(uid, endpoint);
    }
    endpoints
}

fn selected_entries<'a>(
    selector: &'a Labels,
    members: &'a Members<'a>,
) -> impl Iterator<Item = &'a EntryMember<'a>> {
    let entries = members.entries.iter();
    entries.filter(move |member| member.has_address && selects(selector, &member.labels))
}

/// `None` where the pod has no port of the name that the service asks for.
fn pod_port(port: &ServicePort, member: &PodMember<'_>) -> Option<(u16, u16)> {
    let target = match &port.target_port {
        None => port.port,
        Some(TargetPort::Number(number)) => *number,
        Some(TargetPort::Name(name)) => member.pod.named_port(name)?,
    };
    Some((port.port, target))
}

fn tcp(ports: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    let mut seen = BTreeSet::new();
    ports
        .iter()
        .filter(move |port| port.protocol == Protocol::Tcp && seen.insert(port.port))
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
