//! Which workloads of a namespace a policy is for.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

/// Labels that a workload must all carry; without any, every workload is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Selector(pub BTreeMap<Arc<str>, Arc<str>>);

impl Selector {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}
