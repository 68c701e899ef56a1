//! What a directory tells of the mesh that its policies are for: namespaces, workloads, service
//! accounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    mesh::{
        policy::Target,
        workload::{Membership, NetworkMode},
    },
    source::{
        kubernetes_objects::{
            Labels, Object, ObjectKey,
            core::{PodSpec, Protocol, Service, TargetPort},
            networking::WorkloadEntry,
        },
        translate::membership,
    },
};

/// Every cluster has them.
const ALWAYS_THERE: [&str; 2] = ["default", "kube-system"];

#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Of `Namespace` objects, with their labels.
    declared: BTreeMap<Arc<str>, Labels>,
    /// Namespace and name.
    service_accounts: BTreeSet<(Arc<str>, Arc<str>)>,
    pub(super) workloads: Vec<Member>,
}

/// A pod, a machine, or what pods are made from.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Labels,
    annotations: Labels,
    /// `None` for a machine.
    network: Option<NetworkMode>,
    /// TCP ports, with their names: those of its containers and those that services send to.
    /// Without any, it isn't known what it serves.
    pub(super) ports: BTreeMap<u16, Option<Arc<str>>>,
    /// Ports of services before it, and which of its own each leads to.
    pub(super) service_ports: BTreeMap<u16, (Arc<str>, u16)>,
}

impl Inventory {
    /// Objects that the sources don't keep: service accounts and templates of pods.
    pub(super) fn add_value(&mut self, value: &Value) {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let namespace: Arc<str> = text("/metadata/namespace").unwrap_or("default").into();
        let template = match text("/kind") {
            Some("Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job") => {
                "/spec/template"
            }
            Some("CronJob") => "/spec/jobTemplate/spec/template",
            Some("ServiceAccount") => {
                if let Some(name) = text("/metadata/name") {
                    self.service_accounts.insert((namespace, name.into()));
                }
                return;
            }
            _ => return,
        };
        let part = |name: &str| value.pointer(&format!("{template}/{name}"));
        let spec = part("spec").and_then(|spec| PodSpec::deserialize(spec).ok());
        let texts = |name: &str| {
            let texts = part(&format!("metadata/{name}"));
            texts.and_then(|texts| Labels::deserialize(texts).ok())
        };
        if let Some(spec) = spec {
            let labels = texts("labels").unwrap_or_default();
            let annotations = texts("annotations").unwrap_or_default();
            self.add_pods(&namespace, labels, annotations, &spec);
        }
    }

    /// In two turns, because services are about the workloads before them.
    pub(super) fn add_objects<'a>(
        &mut self,
        objects: impl Iterator<Item = (&'a ObjectKey, &'a Object)> + Clone,
    ) {
        for (key, object) in objects.clone() {
            match object {
                Object::Namespace(namespace) => {
                    let labels = namespace.metadata.labels.clone();
                    self.declared.insert(Arc::clone(&key.name), labels);
                }
                Object::Pod(pod) => {
                    let (labels, annotations) = (&pod.metadata.labels, &pod.metadata.annotations);
                    self.add_pods(
                        &key.namespace,
                        labels.clone(),
                        annotations.clone(),
                        &pod.spec,
                    );
                }
                Object::WorkloadEntry(entry) => self.add_machine(&key.namespace, entry),
                _ => {}
            }
        }
        for (key, object) in objects {
            if let Object::Service(service) = object {
                self.add_service(key, service);
            }
        }
    }

    /// Whether policies' targets and ports can be looked for.
    pub(super) fn has_workloads(&self) -> bool {
        !self.workloads.is_empty()
    }

    pub(super) fn selected<'a>(&'a self, target: &Target) -> Vec<&'a Member> {
        let workloads = self.workloads.iter();
        let in_namespace = workloads.filter(|member| {
            let namespace = target.namespace.as_ref();
            namespace.is_none_or(|namespace| *namespace == member.namespace)
        });
        in_namespace
            .filter(|member| target.selector.matches(&member.labels))
            .collect()
    }

    /// Whether a workload is said to take no part in the mesh: no policy is enforced there.
    pub(super) fn is_outside(&self, member: &Member) -> bool {
        let namespace_labels = self.declared.get(&member.namespace);
        match member.network {
            None => false,
            Some(NetworkMode::Host) => true,
            Some(NetworkMode::Pod) => {
                membership(&member.labels, &member.annotations, namespace_labels)
                    == Membership::Outside
            }
        }
    }

    pub(super) fn declares_namespaces(&self) -> bool {
        !self.declared.is_empty()
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces().any(|known| known == namespace)
    }

    /// Those that are there, or that something is in.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let declared = self.declared.keys().map(AsRef::as_ref);
        let of_workloads = self.workloads.iter().map(|member| &*member.namespace);
        let of_accounts = self
            .service_accounts
            .iter()
            .map(|(namespace, _)| &**namespace);
        declared
            .chain(of_workloads)
            .chain(of_accounts)
            .chain(ALWAYS_THERE)
    }

    pub(super) fn knows_service_accounts(&self) -> bool {
        !self.service_accounts.is_empty()
    }

    pub(super) fn has_service_account(&self, namespace: &str, name: &str) -> bool {
        let known = self
            .service_accounts
            .contains(&(namespace.into(), name.into()));
        known || name == "default" && self.has_namespace(namespace)
    }

    /// Namespace and name.
    pub(super) fn service_accounts(&self) -> impl Iterator<Item = (&str, &str)> {
        let known = self.service_accounts.iter();
        let known = known.map(|(namespace, name)| (&**namespace, &**name));
        known.chain(self.namespaces().map(|namespace| (namespace, "default")))
    }

    fn add_pods(
        &mut self,
        namespace: &Arc<str>,
        labels: Labels,
        annotations: Labels,
        spec: &PodSpec,
    ) {
        let ports = spec
            .containers
            .iter()
            .flat_map(|container| &container.ports);
        let tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
        let ports = tcp.map(|port| (port.container_port, port.name.clone()));
        let member = Member {
            namespace: Arc::clone(namespace),
            labels,
            annotations,
            network: Some(if spec.host_network {
                NetworkMode::Host
            } else {
                NetworkMode::Pod
            }),
            ports: ports.collect(),
            service_ports: BTreeMap::new(),
        };
        self.add(member, spec.service_account_name.as_ref());
    }

    fn add_machine(&mut self, namespace: &Arc<str>, entry: &WorkloadEntry) {
        let mut labels = entry.metadata.labels.clone();
        labels.extend(entry.spec.labels.clone());
        let ports = entry.spec.ports.iter();
        let member = Member {
            namespace: Arc::clone(namespace),
            labels,
            annotations: Labels::new(),
            network: None,
            ports: ports
                .map(|(name, port)| (*port, Some(Arc::clone(name))))
                .collect(),
            service_ports: BTreeMap::new(),
        };
        self.add(member, entry.spec.service_account.as_ref());
    }

    fn add(&mut self, member: Member, service_account: Option<&Arc<str>>) {
        let account = service_account.filter(|account| !account.is_empty());
        let account = account.map_or_else(|| "default".into(), Arc::clone);
        let namespace = Arc::clone(&member.namespace);
        self.service_accounts.insert((namespace, account));
        self.workloads.push(member);
    }

    fn add_service(&mut self, key: &ObjectKey, service: &Service) {
        let selector = &service.spec.selector;
        let members = self.workloads.iter_mut().filter(|member| {
            member.namespace == key.namespace
                && !selector.is_empty()
                && selector
                    .iter()
                    .all(|(label, value)| member.labels.get(label) == Some(value))
        });
        for member in members {
            let ports = service.spec.ports.iter();
            for port in ports.filter(|port| port.protocol == Protocol::Tcp) {
                let target = match &port.target_port {
                    None => Some(port.port),
                    Some(TargetPort::Number(number)) => Some(*number),
                    Some(TargetPort::Name(name)) => member.named_port(name),
                };
                let Some(target) = target else {
                    continue;
                };
                member.ports.entry(target).or_default();
                let service = (Arc::clone(&key.name), target);
                member.service_ports.entry(port.port).or_insert(service);
            }
        }
    }
}

impl Member {
    fn named_port(&self, name: &str) -> Option<u16> {
        let mut ports = self.ports.iter();
        let named = ports.find(|(_, its_name)| its_name.as_deref() == Some(name));
        named.map(|(port, _)| *port)
    }
}
