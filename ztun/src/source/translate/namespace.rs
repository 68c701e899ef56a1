//! One namespace's objects to its workloads and services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{ObjectProblem, TranslateSettings, service, workload};
use crate::{
    mesh::{Service, Workload, WorkloadUid},
    source::kubernetes_objects::{
        Kind, Labels, Object, ObjectKey, core::Pod, discovery::EndpointSlice,
        networking::WorkloadEntry,
    },
};

#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) workloads: Vec<(Workload, ObjectKey)>,
    pub(super) services: Vec<Service>,
    pub(super) problems: Vec<ObjectProblem>,
    /// What its object says, or said last; `None` where there never was one.
    pub(super) labels: Option<Labels>,
    /// Of endpoints that are addresses only: several services may list one.
    addresses: BTreeSet<WorkloadUid>,
}

/// What services of the namespace are resolved against.
pub(super) struct Members<'a> {
    pub(super) namespace: &'a str,
    pub(super) settings: &'a TranslateSettings,
    pub(super) pods: BTreeMap<&'a str, PodMember<'a>>,
    pub(super) entries: Vec<EntryMember<'a>>,
    /// By service.
    pub(super) slices: BTreeMap<&'a str, Vec<&'a EndpointSlice>>,
}

pub(super) struct PodMember<'a> {
    pub(super) pod: &'a Pod,
    pub(super) uid: WorkloadUid,
    pub(super) addresses: Vec<IpAddr>,
}

pub(super) struct EntryMember<'a> {
    pub(super) entry: &'a WorkloadEntry,
    pub(super) uid: WorkloadUid,
    pub(super) labels: Labels,
    pub(super) has_address: bool,
}

/// `last_labels` are in force if the namespace has no object: a namespace can't go before its pods, so
/// an object that is missing was lost, and must not take its pods out of the mesh.
pub(super) fn translate(
    namespace: &str,
    objects: &BTreeMap<ObjectKey, Arc<Object>>,
    last_labels: Option<&Labels>,
    settings: &TranslateSettings,
) -> Translated {
    let mut translated = Translated::default();
    let mut members = Members {
        namespace,
        settings,
        pods: BTreeMap::new(),
        entries: Vec::new(),
        slices: BTreeMap::new(),
    };
    let mut labels = last_labels;
    let mut is_lost = last_labels.is_some();
    for (key, object) in of_namespace(objects, namespace) {
        match &**object {
            Object::Namespace(object) => {
                labels = Some(&object.metadata.labels);
                is_lost = false;
            }
            Object::Pod(pod) => translated.pod(key, pod, labels, &mut members),
            Object::WorkloadEntry(entry) => translated.workload_entry(key, entry, &mut members),
            Object::EndpointSlice(slice) => match slice.service() {
                Some(service) => members.slices.entry(service).or_default().push(slice),
                None => translated.problem(
                    key,
                    "metadata.labels: `kubernetes.io/service-name` is missing, so it belongs to no service",
                ),
            },
            _ => {}
        }
    }
    if !members.pods.is_empty() {
        translated.labels = labels.cloned();
        if is_lost {
            let message = "is gone, but its pods are not: its last labels stay in force for them";
            translated.problem(&object_of(namespace), message);
        }
    }
    for (key, object) in of_namespace(objects, namespace) {
        match &**object {
            Object::Service(object) => service::of_service(key, object, &members, &mut translated),
            Object::ServiceEntry(entry) => {
                service::of_service_entry(key, entry, &members, &mut translated);
            }
            _ => {}
        }
    }
    translated
}

impl Translated {
    pub(super) fn problem(&mut self, key: &ObjectKey, message: impl Into<String>) {
        self.problems.push(ObjectProblem::new(key, message.into()));
    }

    pub(super) fn address(&mut self, workload: Workload, owner: &ObjectKey) {
        if self.addresses.insert(workload.uid.clone()) {
            self.workloads.push((workload, owner.clone()));
        }
    }

    fn pod<'a>(
        &mut self,
        key: &'a ObjectKey,
        pod: &'a Pod,
        namespace_labels: Option<&Labels>,
        members: &mut Members<'a>,
    ) {
        let made = workload::of_pod(members.namespace, pod, namespace_labels, members.settings);
        match made {
            Ok(Some(workload)) => {
                let member = PodMember {
                    pod,
                    uid: workload.uid.clone(),
                    addresses: workload.addresses.clone(),
                };
                members.pods.insert(&key.name, member);
                self.workloads.push((workload, key.clone()));
            }
            Ok(None) => {}
            Err(error) => self.problem(key, error.to_string()),
        }
    }

    fn workload_entry<'a>(
        &mut self,
        key: &'a ObjectKey,
        entry: &'a WorkloadEntry,
        members: &mut Members<'a>,
    ) {
        if members.pods.contains_key(&*key.name) {
            return self.problem(
                key,
                "a pod of the namespace has the same name: rename one of them",
            );
        }
        if entry.spec.ip().is_none() {
            let message = format!(
                "spec.address: `{}` is not an IP address: host names are not resolved",
                entry.spec.address
            );
            self.problem(key, message);
        }
        match workload::of_workload_entry(members.namespace, entry, members.settings) {
            Ok(workload) => {
                members.entries.push(EntryMember {
                    entry,
                    uid: workload.uid.clone(),
                    labels: workload.labels.clone(),
                    has_address: !workload.addresses.is_empty(),
                });
                self.workloads.push((workload, key.clone()));
            }
            Err(error) => self.problem(key, error.to_string()),
        }
    }
}

/// In the order of their kinds: the namespace first, what refers to others last.
fn of_namespace<'a>(
    objects: &'a BTreeMap<ObjectKey, Arc<Object>>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Object>)> {
    let first = ObjectKey {
        name: "".into(),
        ..object_of(namespace)
    };
    objects
        .range(first..)
        .take_while(move |(key, _)| *key.namespace == *namespace)
}

/// The key of the namespace's own object.
fn object_of(namespace: &str) -> ObjectKey {
    ObjectKey {
        namespace: namespace.into(),
        kind: Kind::Namespace,
        name: namespace.into(),
    }
}
