//! The pods and machines of one namespace, found by name and by address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    mesh::{Workload, workload::NetworkMode},
    source::kubernetes_objects::{Labels, Object, core::Pod, networking::WorkloadEntry},
};

/// By name: a machine with the name of a pod is left out.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<Arc<str>, Member>,
    /// Of pods that have addresses of their own.
    by_address: BTreeSet<(IpAddr, Arc<str>)>,
    pods: usize,
}

/// What services are resolved against. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) object: Arc<Object>,
    pub(super) workload: Arc<Workload>,
}

impl Member {
    pub(super) fn pod(&self) -> Option<&Pod> {
        match &*self.object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    pub(super) fn entry(&self) -> Option<&WorkloadEntry> {
        match &*self.object {
            Object::WorkloadEntry(entry) => Some(entry),
            _ => None,
        }
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.workload.labels
    }

    /// The addresses that belong to this pod alone.
    pub(super) fn own_addresses(&self) -> &[IpAddr] {
        if self.pod().is_some() && self.workload.network_mode == NetworkMode::Pod {
            &self.workload.addresses
        } else {
            &[]
        }
    }
}

impl Members {
    pub(super) fn get(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name)
    }

    pub(super) fn pod(&self, name: &str) -> Option<&Member> {
        self.get(name).filter(|member| member.pod().is_some())
    }

    /// Of several pods with the address, the first by name.
    pub(super) fn pod_at(&self, address: IpAddr) -> Option<&Member> {
        let from = (address, Arc::default());
        let (found, name) = self.by_address.range(from..).next()?;
        (*found == address).then(|| self.get(name)).flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_name.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn has_pods(&self) -> bool {
        self.pods > 0
    }

    /// Answers what had the name before.
    pub(super) fn set(&mut self, name: &Arc<str>, member: Option<&Member>) -> Option<Member> {
        let before = match member {
            Some(member) => self.by_name.insert(Arc::clone(name), member.clone()),
            None => self.by_name.remove(name),
        };
        for address in before.iter().flat_map(Member::own_addresses) {
            self.by_address.remove(&(*address, Arc::clone(name)));
        }
        for address in member.into_iter().flat_map(Member::own_addresses) {
            self.by_address.insert((*address, Arc::clone(name)));
        }
        let pods =
            |member: Option<&Member>| usize::from(member.is_some_and(|it| it.pod().is_some()));
        self.pods = self.pods + pods(member) - pods(before.as_ref());
        before
    }
}
