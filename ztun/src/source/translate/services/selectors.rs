//! Finds the services that may select a member without a look at those that can't.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::source::{
    kubernetes_objects::{Labels, ObjectKey},
    translate::members::Member,
};

/// Services, each at a single label of its selector; at `None` if it has none and selects all.
#[derive(Debug, Default)]
pub(super) struct Selectors(BTreeMap<Option<Label>, BTreeSet<ObjectKey>>);

type Label = (Arc<str>, Arc<str>);

impl Selectors {
    /// At the label that the fewest others stand at: some are on every pod.
    pub(super) fn insert(&mut self, key: &ObjectKey, selector: &Labels) {
        let rarest =
            places(selector).min_by_key(|place| self.0.get(place).map_or(0, BTreeSet::len));
        let place = rarest.unwrap_or_default();
        self.0.entry(place).or_default().insert(key.clone());
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, selector: &Labels) {
        for place in places(selector).chain([None]) {
            let Some(standing) = self.0.get_mut(&place) else {
                continue;
            };
            standing.remove(key);
            if standing.is_empty() {
                self.0.remove(&place);
            }
        }
    }

    /// The services that may select one of the members.
    pub(super) fn selecting<'a>(
        &self,
        members: impl Iterator<Item = &'a Member>,
    ) -> BTreeSet<ObjectKey> {
        let places = members
            .flat_map(|member| places(member.labels()))
            .chain([None]);
        let standing = places.filter_map(|place| self.0.get(&place));
        standing.flatten().cloned().collect()
    }
}

fn places(labels: &Labels) -> impl Iterator<Item = Option<Label>> {
    labels
        .iter()
        .map(|(key, value)| Some((Arc::clone(key), Arc::clone(value))))
}
