//! One namespace's objects to its workloads and services, object by object.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    TranslateSettings,
    members::{Member, Members},
    problems::Problems,
    services::Services,
    workload,
};
use crate::{
    mesh::{Snapshot, Workload},
    source::kubernetes_objects::{Kind, Labels, Object, ObjectKey},
};

pub(super) type Objects = BTreeMap<ObjectKey, Arc<Object>>;

/// What a namespace is translated with, and into.
pub(super) struct Context<'a> {
    pub(super) settings: &'a TranslateSettings,
    pub(super) objects: &'a Objects,
    pub(super) snapshot: &'a mut Snapshot,
    pub(super) problems: &'a mut Problems,
}

/// What one namespace put into the snapshot, and what it takes to change it bit by bit.
#[derive(Debug)]
pub(super) struct Namespace {
    name: Arc<str>,
    /// What its object says, or said last; `None` where nothing is known.
    labels: Option<Labels>,
    /// Its object is gone, but not its pods. A namespace can't go before its pods, so the object was
    /// lost, and must not take its pods out of the mesh.
    is_lost: bool,
    members: Members,
    services: Services,
}

impl Namespace {
    pub(super) fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            labels: None,
            is_lost: false,
            members: Members::default(),
            services: Services::new(name),
        }
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// Follows a change of one object. Of several changes the keys must come in order.
    pub(super) fn apply(&mut self, key: &ObjectKey, context: &mut Context<'_>) {
        match key.kind {
            Kind::Namespace => self.own_object(context.objects.get(key), context),
            Kind::Pod => self.pod(key, context),
            Kind::WorkloadEntry => self.workload_entry(key, context),
            Kind::Service => self.services.service(key, &self.members, context),
            Kind::EndpointSlice => self.services.slice(key, &self.members, context),
            Kind::ServiceEntry => self.services.service_entry(key, &self.members, context),
            Kind::PeerAuthentication | Kind::AuthorizationPolicy => {}
        }
    }

    /// Ends a batch of changes; true if there is nothing left of the namespace.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) -> bool {
        self.services.publish(context.snapshot);
        if self.is_lost && !self.members.has_pods() {
            self.labels = None;
            self.is_lost = false;
        }
        let problem = "is gone, but its pods are not: its last labels stay in force for them";
        let problems = self.is_lost.then(|| problem.to_owned());
        let key = self.key(Kind::Namespace, &self.name);
        context.problems.set(&key, problems.into_iter().collect());
        self.labels.is_none() && self.members.is_empty() && self.services.is_empty()
    }

    fn own_object(&mut self, object: Option<&Arc<Object>>, context: &mut Context<'_>) {
        let before = self.word();
        match object.map(AsRef::as_ref) {
            Some(Object::Namespace(object)) => {
                self.labels = Some(object.metadata.labels.clone());
                self.is_lost = false;
            }
            _ if self.members.has_pods() => self.is_lost = self.labels.is_some(),
            _ => self.labels = None,
        }
        if self.word() == before {
            return;
        }
        let first = self.key(Kind::Pod, &Arc::default());
        for (key, _) in context.objects.range(first..) {
            if key.kind != Kind::Pod || key.namespace != self.name {
                break;
            }
            self.pod(key, context);
        }
    }

    /// All that its labels say of its pods.
    fn word(&self) -> Option<bool> {
        self.labels.as_ref().map(workload::is_ambient)
    }

    fn pod(&mut self, key: &ObjectKey, context: &mut Context<'_>) {
        let object = context.objects.get(key);
        let (mut made, mut problem) = (None, None);
        if let Some(Object::Pod(pod)) = object.map(AsRef::as_ref) {
            let labels = self.labels.as_ref();
            match workload::of_pod(&self.name, pod, labels, context.settings) {
                Ok(workload) => made = workload,
                Err(error) => problem = Some(error.to_string()),
            }
        }
        context.problems.set(key, problem.into_iter().collect());
        let was_there = self.members.pod(&key.name).is_some();
        let is_there = made.is_some();
        if was_there || is_there {
            self.set_member(key, object.zip(made), context);
        }
        if was_there != is_there {
            // A machine of the same name gives way to the pod, and comes back after it.
            self.workload_entry(&self.key(Kind::WorkloadEntry, &key.name), context);
        }
    }

    fn workload_entry(&mut self, key: &ObjectKey, context: &mut Context<'_>) {
        let has_pod = self.members.pod(&key.name).is_some();
        let object = context.objects.get(key);
        let (mut made, mut problems) = (None, Vec::new());
        if let Some(Object::WorkloadEntry(entry)) = object.map(AsRef::as_ref) {
            if has_pod {
                let message = "a pod of the namespace has the same name: rename one of them";
                problems.push(message.to_owned());
            } else {
                if entry.spec.ip().is_none() {
                    problems.push(format!(
                        "spec.address: `{}` is not an IP address: host names are not resolved",
                        entry.spec.address
                    ));
                }
                match workload::of_workload_entry(&self.name, entry, context.settings) {
                    Ok(workload) => made = Some(workload),
                    Err(error) => problems.push(error.to_string()),
                }
            }
        }
        context.problems.set(key, problems);
        if !has_pod && (made.is_some() || self.members.get(&key.name).is_some()) {
            self.set_member(key, object.zip(made), context);
        }
    }

    fn set_member(
        &mut self,
        key: &ObjectKey,
        made: Option<(&Arc<Object>, Workload)>,
        context: &mut Context<'_>,
    ) {
        let name = &key.name;
        let known = self.members.get(name).map(|member| &member.workload);
        let after = made.map(|(object, workload)| Member {
            object: Arc::clone(object),
            workload: match known {
                Some(known) if **known == workload => Arc::clone(known),
                _ => Arc::new(workload),
            },
        });
        let before = self.members.set(name, after.as_ref());
        let uid = |member: &Option<Member>| member.as_ref().map(|it| it.workload.uid.clone());
        if let Some(Member { workload, .. }) = &after
            && !before
                .as_ref()
                .is_some_and(|it| Arc::ptr_eq(&it.workload, workload))
        {
            context.snapshot.insert_workload(Arc::clone(workload));
        }
        if let Some(former) = uid(&before).filter(|former| uid(&after).as_ref() != Some(former)) {
            context.snapshot.remove_workload(&former);
        }
        let change = [before.as_ref(), after.as_ref()];
        self.services.member(name, change, &self.members, context);
    }

    fn key(&self, kind: Kind, name: &Arc<str>) -> ObjectKey {
        ObjectKey {
            namespace: Arc::clone(&self.name),
            kind,
            name: Arc::clone(name),
        }
    }
}
