//! Services of one namespace, kept in step with what stands behind them.

mod addresses;
mod description;
mod endpoints;
mod resolution;
mod selectors;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    endpoints::Offer,
    selectors::Selectors,
    slices::{Dependencies, Resolved},
};
use super::{
    members::{Member, Members},
    namespace::Context,
};
use crate::{
    mesh::{Service, ServiceKey, Snapshot, WorkloadUid},
    source::kubernetes_objects::{Kind, Object, ObjectKey, discovery::EndpointSlice},
};

#[derive(Debug)]
pub(super) struct Services {
    namespace: Arc<str>,
    /// By object.
    states: BTreeMap<ObjectKey, State>,
    selectors: Selectors,
    dependencies: Dependencies,
    /// A slice's service.
    slice_owners: BTreeMap<Arc<str>, Arc<str>>,
    /// Services and their slices.
    slices: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Service entries by host: the last one of a host counts, before a service of that name.
    hosts: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Workloads of endpoints that are addresses only, with how many lists have each.
    addresses: BTreeMap<WorkloadUid, usize>,
    /// Names of services that are to be published anew.
    changed: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct State {
    service: Arc<Service>,
    object: Arc<Object>,
    backing: Backing,
}

/// Where a service's endpoints come from.
#[derive(Debug)]
enum Backing {
    Selector,
    /// By slice.
    Slices(BTreeMap<Arc<str>, Resolved>),
    /// Workloads of the addresses that a service entry lists.
    WrittenOut(Vec<WorkloadUid>),
}

impl Services {
    pub(super) fn new(namespace: &Arc<str>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            states: BTreeMap::new(),
            selectors: Selectors::default(),
            dependencies: Dependencies::default(),
            slice_owners: BTreeMap::new(),
            slices: BTreeSet::new(),
            hosts: BTreeSet::new(),
            addresses: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.slice_owners.is_empty()
    }

    /// Puts what has changed into the snapshot.
    pub(super) fn publish(&mut self, snapshot: &mut Snapshot) {
        for name in std::mem::take(&mut self.changed) {
            let entries = self.hosts.range((Arc::clone(&name), Arc::default())..);
            let entry = entries.take_while(|(host, _)| *host == name).last();
            let object = match entry {
                Some((_, entry)) => self.key(Kind::ServiceEntry, entry),
                None => self.key(Kind::Service, &name),
            };
            let key = ServiceKey {
                namespace: Arc::clone(&self.namespace),
                name,
            };
            match self.states.get(&object) {
                Some(state) if snapshot.service(&key) == Some(&state.service) => {}
                Some(state) => snapshot.insert_service(Arc::clone(&state.service)),
                None => snapshot.remove_service(&key),
            }
        }
    }

    /// Follows a Kubernetes service: by its endpoint slices, or by its selector where it has none.
    pub(super) fn service(
        &mut self,
        key: &ObjectKey,
        members: &Members,
        context: &mut Context<'_>,
    ) {
        let former = self.take(key, context);
        if let Some(object) = context.objects.get(key)
            && let Object::Service(spec) = &**object
        {
            let service = self.kubernetes_service(key, spec, context);
            let slices = self.slices_of(&key.name);
            let selected = slices.is_empty().then(|| Offer::of_service(spec));
            let backing = if slices.is_empty() {
                Backing::Selector
            } else {
                Backing::Slices(BTreeMap::new())
            };
            self.insert(key, object, service, backing);
            if let Some(offer) = selected.flatten() {
                self.select(key, &offer, members);
            }
            for slice in slices {
                self.resolve(key, &slice, members, context);
            }
        }
        self.release_all(former, context);
    }

    /// Follows a service outside of Kubernetes' own: its endpoints written out, or selected by labels.
    pub(super) fn service_entry(
        &mut self,
        key: &ObjectKey,
        members: &Members,
        context: &mut Context<'_>,
    ) {
        let former = self.take(key, context);
        let mut problems = Vec::new();
        if let Some(object) = context.objects.get(key)
            && let Object::ServiceEntry(entry) = &**object
            && let Some(mut service) = self.outside_service(entry, &mut problems)
        {
            let offer = Offer::of_service_entry(entry);
            let mut backing = Backing::Selector;
            if offer.is_none() {
                let written = endpoints::written_out(entry, &mut problems);
                let mut uids = Vec::new();
                let endpoints = written.filter_map(|(address, endpoint)| {
                    let uid = self.acquire(&key.name, address, context)?;
                    uids.push(uid.clone());
                    Some((uid, endpoint))
                });
                service.endpoints = endpoints.collect();
                backing = Backing::WrittenOut(uids);
            }
            let host = Arc::clone(&service.key.name);
            self.hosts.insert((host, Arc::clone(&key.name)));
            self.insert(key, object, service, backing);
            if let Some(offer) = offer {
                self.select(key, &offer, members);
            }
        }
        context.problems.set(key, problems);
        self.release_all(former, context);
    }

    /// Follows an endpoint slice.
    pub(super) fn slice(&mut self, key: &ObjectKey, members: &Members, context: &mut Context<'_>) {
        let object = context.objects.get(key).map(AsRef::as_ref);
        let slice = match object {
            Some(Object::EndpointSlice(slice)) => Some(slice),
            _ => None,
        };
        let owner: Option<Arc<str>> = slice.and_then(EndpointSlice::service).map(Arc::from);
        let is_stray = slice.is_some() && owner.is_none();
        let problem =
            "metadata.labels: `kubernetes.io/service-name` is missing, so it belongs to no service";
        let problems = is_stray.then(|| problem.to_owned());
        context.problems.set(key, problems.into_iter().collect());

        let former = match &owner {
            Some(owner) => self
                .slice_owners
                .insert(Arc::clone(&key.name), Arc::clone(owner)),
            None => self.slice_owners.remove(&key.name),
        };
        if let Some(former) = former.filter(|former| owner.as_ref() != Some(former)) {
            self.slices
                .remove(&(Arc::clone(&former), Arc::clone(&key.name)));
            let service = self.key(Kind::Service, &former);
            if self.slices_of(&former).is_empty() {
                self.service(&service, members, context);
            } else {
                self.resolve(&service, &key.name, members, context);
            }
        }
        if let Some(owner) = owner {
            let is_first = self.slices_of(&owner).is_empty();
            self.slices
                .insert((Arc::clone(&owner), Arc::clone(&key.name)));
            let service = self.key(Kind::Service, &owner);
            if is_first {
                self.service(&service, members, context);
            } else {
                self.resolve(&service, &key.name, members, context);
            }
        }
    }

    /// Follows a member that is another one than before, or that is new or gone.
    pub(super) fn member(
        &mut self,
        name: &Arc<str>,
        change: [Option<&Member>; 2],
        members: &Members,
        context: &mut Context<'_>,
    ) {
        let [before, after] = change;
        for key in self.selectors.selecting(change.into_iter().flatten()) {
            let Some(state) = self.states.get_mut(&key) else {
                continue;
            };
            let Some(offer) = Offer::of(&state.object) else {
                continue;
            };
            let endpoint = after.and_then(|member| offer.endpoint(member));
            let uid = |member: Option<&Member>| member.map(|member| member.workload.uid.clone());
            let endpoints = &state.service.endpoints;
            let former = uid(before).filter(|uid| endpoints.get(uid).is_some());
            if endpoint.is_none() && former.is_none() {
                continue;
            }
            let endpoints = &mut Arc::make_mut(&mut state.service).endpoints;
            if let Some(former) = former {
                endpoints.remove(&former);
            }
            if let Some((uid, endpoint)) = uid(after).zip(endpoint) {
                endpoints.insert(uid, endpoint);
            }
            self.changed.insert(Arc::clone(&state.service.key.name));
        }
        let addresses = change
            .into_iter()
            .flatten()
            .flat_map(Member::own_addresses)
            .copied();
        for slice in self.dependencies.on(name, addresses) {
            if let Some(owner) = self.slice_owners.get(&slice) {
                let service = self.key(Kind::Service, owner);
                self.resolve(&service, &slice, members, context);
            }
        }
    }

    fn insert(
        &mut self,
        key: &ObjectKey,
        object: &Arc<Object>,
        service: Service,
        backing: Backing,
    ) {
        self.changed.insert(Arc::clone(&service.key.name));
        let state = State {
            service: Arc::new(service),
            object: Arc::clone(object),
            backing,
        };
        self.states.insert(key.clone(), state);
    }

    /// Takes a service out, with all that leads to it; its addresses are still to be released.
    fn take(&mut self, key: &ObjectKey, context: &mut Context<'_>) -> Option<State> {
        let state = self.states.remove(key)?;
        let name = &state.service.key.name;
        self.changed.insert(Arc::clone(name));
        if key.kind == Kind::ServiceEntry {
            self.hosts
                .remove(&(Arc::clone(name), Arc::clone(&key.name)));
        }
        match &state.backing {
            Backing::Selector => {
                if let Some(offer) = Offer::of(&state.object) {
                    self.selectors.remove(key, offer.selector());
                }
            }
            Backing::Slices(slices) => {
                for (slice, resolved) in slices {
                    self.dependencies.remove(slice, resolved);
                    let cause = self.key(Kind::EndpointSlice, slice);
                    context.problems.set_due_to(key, &cause, Vec::new());
                }
            }
            Backing::WrittenOut(_) => {}
        }
        Some(state)
    }

    fn release_all(&mut self, former: Option<State>, context: &mut Context<'_>) {
        match former.map(|state| state.backing) {
            Some(Backing::Slices(slices)) => {
                let resolved = slices.values();
                self.release(resolved.flat_map(|resolved| &resolved.addresses), context);
            }
            Some(Backing::WrittenOut(uids)) => self.release(&uids, context),
            Some(Backing::Selector) | None => {}
        }
    }

    /// Gives a service every member that it selects, now and later.
    fn select(&mut self, key: &ObjectKey, offer: &Offer<'_>, members: &Members) {
        self.selectors.insert(key, offer.selector());
        let Some(state) = self.states.get_mut(key) else {
            return;
        };
        let endpoints = members
            .iter()
            .filter_map(|member| Some((member.workload.uid.clone(), offer.endpoint(member)?)));
        Arc::make_mut(&mut state.service).endpoints = endpoints.collect();
    }

    fn slices_of(&self, service: &Arc<str>) -> Vec<Arc<str>> {
        let slices = self.slices.range((Arc::clone(service), Arc::default())..);
        let slices = slices.take_while(|(owner, _)| owner == service);
        slices.map(|(_, slice)| Arc::clone(slice)).collect()
    }

    fn key(&self, kind: Kind, name: &Arc<str>) -> ObjectKey {
        ObjectKey {
            namespace: Arc::clone(&self.namespace),
            kind,
            name: Arc::clone(name),
        }
    }
}
