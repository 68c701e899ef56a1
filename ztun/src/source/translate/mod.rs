//! Kubernetes objects to the mesh: the same for files and for the API server.

mod members;
mod namespace;
mod policy;
mod problems;
mod services;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::problems::ObjectProblem;
pub(crate) use self::workload::membership;
use self::{
    namespace::{Context, Namespace, Objects},
    problems::Problems,
};
use super::kubernetes_objects::{Kind, Object, ObjectKey, ReadContext};
use crate::mesh::{Policies, Snapshot, TrustDomain, Workload};

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

/// Keeps a snapshot in step with a store of objects.
///
/// After a change only what it concerns is translated again: an object itself, the services that
/// stand before it, the policies that name it, and the pods of a namespace whose own word about the mesh changes.
#[derive(Debug)]
pub struct Translator {
    settings: TranslateSettings,
    objects: Objects,
    changed: BTreeSet<ObjectKey>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    problems: Problems,
    /// Whether any address had several claimants.
    was_contested: bool,
    snapshot: Snapshot,
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
            objects: Objects::new(),
            changed: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            problems: Problems::default(),
            was_contested: false,
            snapshot,
        }
    }

    pub fn settings(&self) -> &TranslateSettings {
        &self.settings
    }

    pub fn insert(&mut self, key: ObjectKey, object: Arc<Object>) {
        if self.objects.get(&key) != Some(&object) {
            self.changed.insert(key.clone());
            self.objects.insert(key, object);
        }
    }

    pub fn remove(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_some() {
            self.changed.insert(key.clone());
        }
    }

    /// The mesh as the objects now describe it.
    pub fn snapshot(&mut self) -> Snapshot {
        let changed = std::mem::take(&mut self.changed);
        let (mut policies, others): (BTreeSet<_>, BTreeSet<_>) =
            changed.into_iter().partition(|key| key.kind.is_policy());
        let others: Vec<_> = others.into_iter().collect();
        for key in &others {
            if matches!(key.kind, Kind::Service | Kind::ServiceEntry) {
                policies.extend(policy::that_name(key, &self.objects));
            }
        }
        for key in policies {
            self.policy(&key);
        }
        for keys in others.chunk_by(|a, b| a.namespace == b.namespace) {
            self.namespace(keys);
        }
        self.snapshot.clone()
    }

    /// What is wrong with the objects of the last [`Self::snapshot`], though each can be read.
    pub fn problems(&self) -> Vec<ObjectProblem> {
        let mut problems: Vec<_> = self.problems.iter().collect();
        problems.extend(self.contested_addresses());
        problems.extend(self.contested_vips());
        problems
    }

    /// Whether [`Self::problems`] may have changed since this was last asked.
    pub fn take_problems_changed(&mut self) -> bool {
        let contested = self.snapshot.contested_addresses().next().is_some()
            || self.snapshot.contested_vips().next().is_some();
        let was_contested = std::mem::replace(&mut self.was_contested, contested);
        self.problems.take_changed() || contested || was_contested
    }

    fn policy(&mut self, key: &ObjectKey) {
        let Some(policy_key) = policy::key(key) else {
            return;
        };
        let object = self.objects.get(key).map(AsRef::as_ref);
        let (name, problems) =
            policy::problems(key, object, &self.objects, &self.settings.root_namespace);
        self.problems.set_as(key, &name, problems);
        match object.and_then(|object| policy::of(object, &self.objects)) {
            Some(policy) => self.snapshot.insert_policy(policy_key, policy),
            None => self.snapshot.remove_policy(&policy_key),
        }
    }

    /// Follows changed objects of one namespace, in their order.
    fn namespace(&mut self, keys: &[ObjectKey]) {
        let Some(name) = keys.first().map(|key| &key.namespace) else {
            return;
        };
        let namespace = self
            .namespaces
            .entry(Arc::clone(name))
            .or_insert_with(|| Namespace::new(name));
        let mut context = Context {
            settings: &self.settings,
            objects: &self.objects,
            snapshot: &mut self.snapshot,
            problems: &mut self.problems,
        };
        for key in keys {
            namespace.apply(key, &mut context);
        }
        if namespace.settle(&mut context) {
            self.namespaces.remove(name);
        }
    }

    fn contested_addresses(&self) -> Vec<ObjectProblem> {
        let mut problems = Vec::new();
        for (address, workloads) in self.snapshot.contested_addresses() {
            let mut objects = workloads.iter().filter_map(|it| self.object_of(it));
            let Some(holder) = objects.next() else {
                continue;
            };
            problems.extend(objects.map(|other| {
                let message = format!(
                    "address {address} is also claimed by {holder}, which holds it as the newer one: remove the one that is gone"
                );
                ObjectProblem::new(&other, message)
            }));
        }
        problems
    }

    /// The pod or the machine that a workload was made from.
    fn object_of(&self, workload: &Workload) -> Option<ObjectKey> {
        let namespace = self.namespaces.get(&workload.pod.namespace)?;
        let member = namespace.members().get(&workload.pod.name)?;
        let kind = match member.pod() {
            Some(_) => Kind::Pod,
            None => Kind::WorkloadEntry,
        };
        Some(ObjectKey {
            namespace: Arc::clone(&workload.pod.namespace),
            kind,
            name: Arc::clone(&workload.pod.name),
        })
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
