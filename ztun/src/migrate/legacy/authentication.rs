//! `authentication.istio.io/v1alpha1`: `MeshPolicy` and `Policy`.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Unknown;
use crate::source::kubernetes_objects::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// Services of the namespace; none is all of it.
    #[serde(default, deserialize_with = "or_default")]
    pub targets: Vec<Target>,
    /// None turns mutual TLS off.
    #[serde(default, deserialize_with = "or_default")]
    pub peers: Vec<Peer>,
    #[serde(default, deserialize_with = "or_default", alias = "peer_is_optional")]
    pub peer_is_optional: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub origins: Vec<OriginMethod>,
    #[serde(default, deserialize_with = "or_default", alias = "origin_is_optional")]
    pub origin_is_optional: bool,
    #[serde(default, deserialize_with = "or_default", alias = "principal_binding")]
    pub principal_binding: PrincipalBinding,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Target {
    /// A service's short name.
    pub name: Arc<str>,
    /// The service's ports; none is all of them.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Port {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Peer {
    /// `mtls:` with nothing behind it is there, and means STRICT.
    #[serde(default, deserialize_with = "present")]
    pub mtls: Option<MutualTls>,
    pub jwt: Option<Value>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MutualTls {
    #[serde(default, deserialize_with = "or_default", alias = "allow_tls")]
    pub allow_tls: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub mode: Mode,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    #[default]
    Strict,
    Permissive,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct OriginMethod {
    #[serde(default, deserialize_with = "or_default")]
    pub jwt: Jwt,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Jwt {
    #[serde(default, deserialize_with = "or_default")]
    pub issuer: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PrincipalBinding {
    #[default]
    UsePeer,
    UseOrigin,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MutualTls>, D::Error> {
    or_default(deserializer).map(Some)
}
