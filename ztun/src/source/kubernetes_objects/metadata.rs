//! What every object carries.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: Arc<str>,
    /// `default` where a namespaced object does not say.
    pub namespace: Option<Arc<str>>,
    pub uid: Option<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Labels,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub creation_timestamp: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub deletion_timestamp: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    #[serde(default)]
    pub controller: bool,
}

/// The API server writes `null` for what is empty.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
