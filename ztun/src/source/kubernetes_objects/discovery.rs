//! `discovery.k8s.io/v1`: `EndpointSlice`. Only the fields that are read; others are ignored.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    core::Protocol,
    metadata::{Metadata, or_default},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    pub address_type: AddressType,
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    pub target_ref: Option<TargetReference>,
    #[serde(default, deserialize_with = "or_default")]
    pub node_name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EndpointConditions {
    /// Unknown is to be taken for ready.
    pub ready: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetReference {
    #[serde(default, deserialize_with = "or_default")]
    pub kind: Arc<str>,
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointPort {
    /// The service port's name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: Protocol,
}

impl EndpointSlice {
    /// The service that it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME).map(AsRef::as_ref)
    }
}
