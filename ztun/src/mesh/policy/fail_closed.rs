//! Policies that exist but can't be enforced as written: nobody enters their target.

use std::{fmt, sync::Arc};

use super::{Denial, Selector};
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

impl FailClosed {
    pub(super) fn check(&self, destination: &Workload) -> Option<Denial> {
        self.target
            .selects(destination)
            .then(|| self.denial.clone())
    }
}

impl Target {
    pub fn selects(&self, workload: &Workload) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == workload.pod.namespace)
            && self.selector.matches(&workload.labels)
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
