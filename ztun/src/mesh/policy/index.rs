//! Finds the policies that apply to a workload without a look at those that don't.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{HashMap, OrdMap};

use super::{PolicyKey, Selector, Target};
use crate::mesh::workload::Workload;

/// Policies by what they are for. A clone shares all that it has in common with its original.
///
/// A workload costs nothing here: what applies to it is found through its namespace and labels.
#[derive(Clone, Debug)]
pub(super) struct Index<T> {
    entries: OrdMap<PolicyKey, Arc<Entry<T>>>,
    mesh: Scope<T>,
    namespaces: HashMap<Arc<str>, Scope<T>>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry<T> {
    pub(super) key: PolicyKey,
    /// `None` is every namespace.
    namespace: Option<Arc<str>>,
    /// Of its selector; a map takes far more memory.
    labels: Box<[Label]>,
    pub(super) policy: T,
}

type Label = (Arc<str>, Arc<str>);

/// The mesh, or one namespace.
#[derive(Clone, Debug)]
struct Scope<T> {
    /// Without a selector.
    whole: Bucket<T>,
    /// With one, each at a single label of it: by the label's key, then its value.
    labelled: OrdMap<Arc<str>, HashMap<Arc<str>, Bucket<T>>>,
}

type Bucket<T> = Arc<Vec<Arc<Entry<T>>>>;

impl<T> Entry<T> {
    pub(super) fn new(key: PolicyKey, target: Target, policy: T) -> Self {
        Self {
            key,
            namespace: target.namespace,
            labels: target.selector.0.into_iter().collect(),
            policy,
        }
    }

    pub(super) fn covers_mesh(&self) -> bool {
        self.namespace.is_none()
    }

    pub(super) fn target(&self) -> Target {
        Target {
            namespace: self.namespace.clone(),
            selector: Selector(self.labels.iter().cloned().collect()),
        }
    }

    fn selects(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        let mut wanted = self.labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl<T: Clone> Index<T> {
    /// Adds a policy; one with the same key must have been removed.
    pub(super) fn insert(&mut self, entry: Entry<T>) {
        let entry = Arc::new(entry);
        match &entry.namespace {
            None => self.mesh.insert(&entry),
            Some(namespace) => {
                let namespaces = &mut self.namespaces;
                namespaces
                    .entry(Arc::clone(namespace))
                    .or_default()
                    .insert(&entry);
            }
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        let Some(namespace) = &entry.namespace else {
            return self.mesh.remove(&entry);
        };
        if let Some(scope) = self.namespaces.get_mut(namespace) {
            scope.remove(&entry);
            if scope.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    /// Every policy, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.values().map(AsRef::as_ref)
    }

    /// The policies that are for `workload`, in no order.
    pub(super) fn applying(&self, workload: &Workload) -> impl Iterator<Item = &Entry<T>> {
        let namespace = if self.namespaces.is_empty() {
            None
        } else {
            self.namespaces.get(&workload.pod.namespace)
        };
        [Some(&self.mesh), namespace]
            .into_iter()
            .flatten()
            .flat_map(|scope| scope.applying(&workload.labels))
    }
}

impl<T: Clone> Scope<T> {
    fn insert(&mut self, entry: &Arc<Entry<T>>) {
        let bucket = match self.rarest_label(entry) {
            None => &mut self.whole,
            Some((key, value)) => {
                let values = self.labelled.entry(Arc::clone(key)).or_default();
                values.entry(Arc::clone(value)).or_default()
            }
        };
        Arc::make_mut(bucket).push(Arc::clone(entry));
    }

    /// Labels such as `managed-by` are in many selectors: the one that the fewest policies stand
    /// at keeps lists short. Of equals the last one: the common ones tend to sort first.
    fn rarest_label<'a>(&self, entry: &'a Entry<T>) -> Option<&'a Label> {
        let standing = |(key, value): &Label| {
            let bucket = self.labelled.get(key).and_then(|values| values.get(value));
            bucket.map_or(0, |bucket| bucket.len())
        };
        entry
            .labels
            .iter()
            .rev()
            .min_by_key(|label| standing(label))
    }

    fn remove(&mut self, entry: &Entry<T>) {
        if take(&mut self.whole, &entry.key) {
            return;
        }
        for (key, value) in &entry.labels {
            let Some(values) = self.labelled.get_mut(key) else {
                continue;
            };
            let Some(bucket) = values.get_mut(value) else {
                continue;
            };
            if !take(bucket, &entry.key) {
                continue;
            }
            if bucket.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                self.labelled.remove(key);
            }
            return;
        }
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.labelled.is_empty()
    }

    fn applying(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> impl Iterator<Item = &Entry<T>> {
        let labels_in_use = (!self.labelled.is_empty()).then_some(labels);
        let labelled = labels_in_use
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| self.labelled.get(key)?.get(value))
            .flat_map(|bucket| bucket.iter())
            .filter(|entry| entry.selects(labels));
        self.whole.iter().chain(labelled).map(AsRef::as_ref)
    }
}

/// True if the policy was there.
fn take<T: Clone>(bucket: &mut Bucket<T>, key: &PolicyKey) -> bool {
    let Some(position) = bucket.iter().position(|entry| entry.key == *key) else {
        return false;
    };
    Arc::make_mut(bucket).swap_remove(position);
    true
}

// Derived, these would ask that `T` itself is `Default`.
impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            entries: OrdMap::new(),
            mesh: Scope::default(),
            namespaces: HashMap::new(),
        }
    }
}

impl<T> Default for Scope<T> {
    fn default() -> Self {
        Self {
            whole: Bucket::default(),
            labelled: OrdMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{fixture::workload, policy::PolicyKind};

    fn entry(name: &str, namespace: Option<&str>, labels: &[(&str, &str)]) -> Entry<()> {
        let labels = labels.iter().copied();
        let target = Target {
            namespace: namespace.map(Arc::from),
            selector: Selector(
                labels
                    .map(|(key, value)| (key.into(), value.into()))
                    .collect(),
            ),
        };
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, "foo", name);
        Entry::new(key, target, ())
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut index = Index::default();
        for (number, namespace) in [None, Some("foo"), Some("bar")].into_iter().enumerate() {
            for labels in [&[][..], &[("app", "a")], &[("app", "a"), ("tier", "x")]] {
                let name = format!("{number}-{}", labels.len());
                index.insert(entry(&name, namespace, labels));
            }
        }
        assert_eq!(index.iter().count(), 9);
        let keys: Vec<_> = index.iter().map(|entry| entry.key.clone()).collect();
        for key in &keys {
            index.remove(key);
        }
        assert_eq!(index.iter().count(), 0);
        assert!(index.mesh.is_empty());
        assert!(index.namespaces.is_empty());
    }

    #[test]
    fn a_label_that_many_selectors_have_does_not_bring_them_together() {
        let mut index = Index::default();
        for number in 0..100 {
            let labels = [("zone", "x"), ("app", &*number.to_string())];
            index.insert(entry(labels[1].1, Some("foo"), &labels));
        }
        let mut destination = workload("7", &[]);
        destination.labels.insert("zone".into(), "x".into());
        let scope = index.namespaces.get("foo").unwrap();
        let longest = scope
            .labelled
            .values()
            .flat_map(|values| values.values())
            .map(|bucket| bucket.len())
            .max();
        assert_eq!(longest, Some(1));
        assert_eq!(index.applying(&destination).count(), 1);
    }
}
