//! Services of one namespace, kept in step with what stands behind them.

mod endpoints;
mod selectors;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
    workload,
};
use crate::{
    mesh::{Service, ServiceKey, Snapshot, WorkloadUid, chunked::ChunkedMap},
    source::kubernetes_objects::{
        Kind, Object, ObjectKey, core,
        discovery::EndpointSlice,
        networking::{Resolution, ServiceEntry},
    },
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

    fn kubernetes_service(
        &self,
        key: &ObjectKey,
        object: &core::Service,
        context: &Context<'_>,
    ) -> Service {
        let ports = endpoints::tcp(&object.spec.ports);
        Service {
            key: ServiceKey {
                namespace: Arc::clone(&self.namespace),
                name: Arc::clone(&key.name),
            },
            hostname: format!(
                "{}.{}.svc.{}",
                key.name, self.namespace, context.settings.cluster_domain
            )
            .into(),
            vips: object.spec.vips(),
            ports: ports.map(|port| port.port).collect(),
            endpoints: ChunkedMap::new(),
        }
    }

    fn outside_service(&self, entry: &ServiceEntry, problems: &mut Vec<String>) -> Option<Service> {
        let spec = &entry.spec;
        if spec.resolution != Resolution::Static {
            let message =
                "spec.resolution: only STATIC is supported: connections to it pass through";
            problems.push(message.to_owned());
            return None;
        }
        let Some(host) = spec.hosts.first() else {
            problems.push("spec.hosts: must name at least one host".to_owned());
            return None;
        };
        let vips = spec.addresses.iter().filter_map(|address| {
            let vip = address.parse::<IpAddr>();
            if vip.is_err() {
                problems.push(format!(
                    "spec.addresses: `{address}` is not an IP address and is left out"
                ));
            }
            Some(vip.ok()?.to_canonical())
        });
        Some(Service {
            vips: vips.collect(),
            // By host, as the peer has it: a Service of the same name is another one.
            key: ServiceKey {
                namespace: Arc::clone(&self.namespace),
                name: Arc::clone(host),
            },
            hostname: Arc::clone(host),
            ports: spec.ports.iter().map(|port| port.number).collect(),
            endpoints: ChunkedMap::new(),
        })
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

    /// Looks again at what a slice says, or no longer says, of a service.
    fn resolve(
        &mut self,
        key: &ObjectKey,
        slice: &Arc<str>,
        members: &Members,
        context: &mut Context<'_>,
    ) {
        let of_slice = self.key(Kind::EndpointSlice, slice);
        let is_owned = self.slice_owners.get(slice) == Some(&key.name);
        let said = context.objects.get(&of_slice).filter(|_| is_owned);
        let state = self.states.get(key);
        let Some(State { object, .. }) =
            state.filter(|state| matches!(state.backing, Backing::Slices(_)))
        else {
            return;
        };
        let object = Arc::clone(object);
        let Object::Service(spec) = &*object else {
            return;
        };
        let resolved = match said.map(AsRef::as_ref) {
            Some(Object::EndpointSlice(said)) => {
                let ports: Vec<_> = endpoints::tcp(&spec.spec.ports).collect();
                let mut problems = Vec::new();
                let mut address_only = |address| self.acquire(&key.name, address, context);
                let resolved =
                    Resolved::new(&ports, said, members, &mut address_only, &mut problems);
                Some((resolved, problems))
            }
            _ => None,
        };
        let (after, problems) = resolved.unzip();
        let problems = problems.unwrap_or_default();
        context.problems.set_due_to(key, &of_slice, problems);
        let before = self.replace(key, slice, after);
        if let Some(before) = before {
            self.release(&before.addresses, context);
        }
    }

    /// Answers what the slice said before.
    fn replace(
        &mut self,
        key: &ObjectKey,
        slice: &Arc<str>,
        after: Option<Resolved>,
    ) -> Option<Resolved> {
        let state = self.states.get_mut(key)?;
        let Backing::Slices(slices) = &mut state.backing else {
            return None;
        };
        let nothing = ChunkedMap::new();
        let before = slices.remove(slice);
        if let Some(before) = &before {
            self.dependencies.remove(slice, before);
        }
        if let Some(after) = after {
            self.dependencies.insert(slice, &after);
            slices.insert(Arc::clone(slice), after);
        }
        let endpoints_of = |resolved: Option<&Resolved>| match resolved {
            Some(resolved) => resolved.endpoints.clone(),
            None => nothing.clone(),
        };
        let old = endpoints_of(before.as_ref());
        let new = endpoints_of(slices.get(slice));
        let differences = old.differences(&new);
        if !differences.is_empty() {
            let endpoints = &mut Arc::make_mut(&mut state.service).endpoints;
            for difference in differences {
                match slices::merged(slices, difference.key) {
                    Some(endpoint) => endpoints.insert(difference.key.clone(), endpoint),
                    None => endpoints.remove(difference.key),
                }
            }
            self.changed.insert(Arc::clone(&key.name));
        }
        before
    }

    /// The workload of a bare address that `owner` lists, which is made where there is none yet.
    fn acquire(
        &mut self,
        owner: &str,
        address: IpAddr,
        context: &mut Context<'_>,
    ) -> Option<WorkloadUid> {
        // It fails for names that are refused when objects are read.
        let workload =
            workload::of_address(&self.namespace, owner, address, context.settings).ok()?;
        let uid = workload.uid.clone();
        let lists = self.addresses.entry(uid.clone()).or_insert_with(|| {
            context.snapshot.insert_workload(Arc::new(workload));
            0
        });
        *lists += 1;
        Some(uid)
    }

    fn release<'a>(
        &mut self,
        uids: impl IntoIterator<Item = &'a WorkloadUid>,
        context: &mut Context<'_>,
    ) {
        for uid in uids {
            if let Some(lists) = self.addresses.get_mut(uid) {
                *lists -= 1;
                if *lists == 0 {
                    self.addresses.remove(uid);
                    context.snapshot.remove_workload(uid);
                }
            }
        }
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
