//! Policies that exist but can't be enforced as written: nobody enters their target.

use std::{fmt, sync::Arc};

use super::{
    Connection, Denial, PolicyKey, Selector,
    index::{Entry, Index},
    listing::Listed,
};
use crate::mesh::workload::Workload;

/// A policy that this version doesn't support, or that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailClosed {
    pub target: Target,
    pub denial: Denial,
}

/// The workloads that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `None` is every namespace.
    pub namespace: Option<Arc<str>>,
    pub selector: Selector,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct FailClosedPolicies(Index<Denial>);

impl FailClosedPolicies {
    pub(super) fn insert(&mut self, key: PolicyKey, policy: FailClosed) {
        self.0.insert(Entry::new(key, policy.target, policy.denial));
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) {
        self.0.remove(key);
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = Listed> {
        let entries = self.0.iter();
        entries.map(|entry| Listed::new(entry, format!("closed: {}", entry.policy.reason)))
    }

    pub(super) fn check(&self, connection: &Connection<'_>) -> Option<Denial> {
        let applying = self.0.applying(connection.destination);
        let first = applying.min_by_key(|entry| &entry.key)?;
        Some(first.policy.clone())
    }

    /// Those that are for `destination`, by key.
    pub(super) fn applying(&self, destination: &Workload) -> Vec<Denial> {
        let mut entries: Vec<_> = self.0.applying(destination).collect();
        entries.sort_unstable_by_key(|entry| &entry.key);
        let denials = entries.into_iter().map(|entry| entry.policy.clone());
        denials.collect()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every workload")?;
        for (index, (label, value)) in self.selector.0.iter().enumerate() {
            let word = if index == 0 { "with" } else { "and" };
            write!(f, " {word} {label}={value}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " of namespace {namespace}"),
            None => f.write_str(" of the mesh"),
        }
    }
}
