//! `networking.istio.io` `DestinationRule`: what it says of TLS.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use crate::source::kubernetes_objects::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    #[serde(default, deserialize_with = "or_default")]
    pub traffic_policy: TrafficPolicy,
    #[serde(default, deserialize_with = "or_default")]
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    pub name: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub traffic_policy: TrafficPolicy,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    pub tls: Option<Tls>,
    #[serde(default, deserialize_with = "or_default")]
    pub port_level_settings: Vec<PortPolicy>,
    /// Load balancing and the like.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PortPolicy {
    pub port: Option<Value>,
    pub tls: Option<Tls>,
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Tls {
    #[serde(default, deserialize_with = "or_default")]
    pub mode: TlsMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
