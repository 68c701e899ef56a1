//! Kubernetes objects to the mesh: the same for files and for the API server.

mod namespace;
mod policy;
mod service;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::namespace::Translated;
use super::kubernetes_objects::{Kind, Labels, Object, ObjectKey, ReadContext};
use crate::mesh::{Policies, ServiceKey, Snapshot, TrustDomain, WorkloadUid};

#[derive(Clone, Debug)]
pub struct TranslateSettings {
    pub trust_domain: TrustDomain,
    /// Its other names, which policies may use in its place.
    pub trust_domain_aliases: Arc<[TrustDomain]>,
    pub cluster_id: Arc<str>,
    /// The end of services' names, such as `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// The namespace whose policies cover the mesh.
    pub root_namespace: Arc<str>,
}

/// Something about an object that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectProblem {
    pub key: ObjectKey,
    /// How people call it: kind, namespace and name.
    pub object: String,
    pub message: String,
}

/// Keeps a snapshot in step with a store of objects.
///
/// After a change only the namespaces and policies concerned are translated again, and only what
/// differs there is put into the snapshot.
#[derive(Debug)]
pub struct Translator {
    settings: TranslateSettings,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    stale_namespaces: BTreeSet<Arc<str>>,
    stale_policies: BTreeSet<ObjectKey>,
    namespaces: BTreeMap<Arc<str>, Contents>,
    workload_objects: BTreeMap<WorkloadUid, ObjectKey>,
    snapshot: Snapshot,
}

/// What one namespace put into the snapshot.
#[derive(Debug, Default)]
struct Contents {
    workloads: BTreeSet<WorkloadUid>,
    services: BTreeSet<ServiceKey>,
    problems: Vec<ObjectProblem>,
    /// What its object said last, while it has pods.
    labels: Option<Labels>,
}

impl ObjectProblem {
    pub(super) fn new(key: &ObjectKey, message: String) -> Self {
        Self {
            key: key.clone(),
            object: key.to_string(),
            message,
        }
    }
}

impl TranslateSettings {
    /// All names of the mesh's trust domain, or none if there is only one.
    fn trust_domains(&self) -> Arc<[TrustDomain]> {
        if self.trust_domain_aliases.is_empty() {
            return Arc::default();
        }
        let aliases = self.trust_domain_aliases.iter();
        let all = [&self.trust_domain].into_iter().chain(aliases);
        all.cloned().collect()
    }

    pub fn read_context(&self) -> ReadContext<'_> {
        ReadContext {
            trust_domain: &self.trust_domain,
            root_namespace: &self.root_namespace,
        }
    }
}

impl Translator {
    pub fn new(settings: TranslateSettings) -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.set_policies(
            Policies::new(&settings.root_namespace).with_trust_domains(settings.trust_domains()),
        );
        Self {
            settings,
            objects: BTreeMap::new(),
            stale_namespaces: BTreeSet::new(),
            stale_policies: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            workload_objects: BTreeMap::new(),
            snapshot,
        }
    }

    pub fn settings(&self) -> &TranslateSettings {
        &self.settings
    }

    pub fn insert(&mut self, key: ObjectKey, object: Arc<Object>) {
        if self.objects.get(&key) != Some(&object) {
            self.mark_stale(&key);
            self.objects.insert(key, object);
        }
    }

    pub fn remove(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_some() {
            self.mark_stale(key);
        }
    }

    /// The mesh as the objects now describe it.
    pub fn snapshot(&mut self) -> Snapshot {
        for namespace in std::mem::take(&mut self.stale_namespaces) {
            let known = self.namespaces.get(&namespace);
            let last_labels = known.and_then(|contents| contents.labels.as_ref());
            let translated =
                namespace::translate(&namespace, &self.objects, last_labels, &self.settings);
            self.replace(namespace, translated);
        }
        for key in std::mem::take(&mut self.stale_policies) {
            self.replace_policy(&key);
        }
        self.snapshot.clone()
    }

    /// What is wrong with the objects of the last [`Self::snapshot`], though each can be read.
    pub fn problems(&self) -> Vec<ObjectProblem> {
        let within = self
            .namespaces
            .values()
            .flat_map(|contents| contents.problems.clone());
        let mut problems: Vec<_> = within.collect();
        problems.extend(policy::problems(&self.objects));
        problems.extend(self.contested_addresses());
        problems.extend(self.contested_vips());
        problems
    }

    fn mark_stale(&mut self, key: &ObjectKey) {
        if key.kind.is_policy() {
            self.stale_policies.insert(key.clone());
        } else {
            self.stale_namespaces.insert(Arc::clone(&key.namespace));
        }
    }

    fn replace(&mut self, namespace: Arc<str>, translated: Translated) {
        let old = self.namespaces.remove(&namespace).unwrap_or_default();
        let mut new = Contents {
            problems: translated.problems,
            labels: translated.labels,
            ..Contents::default()
        };
        for (workload, object) in translated.workloads {
            new.workloads.insert(workload.uid.clone());
            self.workload_objects.insert(workload.uid.clone(), object);
            if self.snapshot.workload(&workload.uid).map(AsRef::as_ref) != Some(&workload) {
                self.snapshot.insert_workload(Arc::new(workload));
            }
        }
        for service in translated.services {
            new.services.insert(service.key.clone());
            if self.snapshot.service(&service.key).map(AsRef::as_ref) != Some(&service) {
                self.snapshot.insert_service(Arc::new(service));
            }
        }
        for uid in old.workloads.difference(&new.workloads) {
            self.snapshot.remove_workload(uid);
            self.workload_objects.remove(uid);
        }
        for key in old.services.difference(&new.services) {
            self.snapshot.remove_service(key);
        }
        self.namespaces.insert(namespace, new);
    }

    fn replace_policy(&mut self, key: &ObjectKey) {
        let Some(policy_key) = policy::key(key) else {
            return;
        };
        match self.objects.get(key).and_then(|object| policy::of(object)) {
            Some(policy) => self.snapshot.insert_policy(policy_key, policy),
            None => self.snapshot.remove_policy(&policy_key),
        }
    }

    fn contested_addresses(&self) -> Vec<ObjectProblem> {
        let mut problems = Vec::new();
        for (address, workloads) in self.snapshot.contested_addresses() {
            let mut objects = workloads
                .iter()
                .filter_map(|workload| self.workload_objects.get(&workload.uid));
            let Some(holder) = objects.next() else {
                continue;
            };
            problems.extend(objects.map(|other| {
                let message = format!(
                    "address {address} is also claimed by {holder}, which holds it as the newer one: remove the one that is gone"
                );
                ObjectProblem::new(other, message)
            }));
        }
        problems
    }

    fn contested_vips(&self) -> Vec<ObjectProblem> {
        let mut problems = Vec::new();
        for (vip, services) in self.snapshot.contested_vips() {
            let mut services = services.into_iter();
            let Some(holder) = services.next() else {
                continue;
            };
            problems.extend(services.map(|other| {
                let key = ObjectKey {
                    namespace: Arc::clone(&other.namespace),
                    kind: Kind::Service,
                    name: Arc::clone(&other.name),
                };
                let message =
                    format!("address {vip} is also that of service {holder}, which holds it");
                ObjectProblem::new(&key, message)
            }));
        }
        problems
    }
}

#[cfg(test)]
mod tests;
