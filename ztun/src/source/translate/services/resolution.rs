//! Keeps a service's endpoints in step with its slices.

use std::sync::Arc;

use super::{
    Backing, Services, State, endpoints,
    slices::{self, Resolved},
};
use crate::{
    mesh::chunked::ChunkedMap,
    source::{
        kubernetes_objects::{Kind, Object, ObjectKey},
        translate::{members::Members, namespace::Context},
    },
};

impl Services {
    /// Looks again at what a slice says, or no longer says, of a service.
    pub(super) fn resolve(
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
}
