//! The legacy kinds, as far as they say who may talk to whom (istio/api, releases 1.0 to 1.5).

pub(super) mod authentication;
pub(super) mod destination_rule;
pub(super) mod rbac;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::source::kubernetes_objects::{Metadata, or_default};

#[derive(Debug, Deserialize)]
#[serde(bound = "S: Deserialize<'de> + Default")]
pub(super) struct Legacy<S> {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: S,
}

/// Fields that aren't known, so that they can be reported: one may have been a restriction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Unknown(BTreeMap<String, Value>);

impl Unknown {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
