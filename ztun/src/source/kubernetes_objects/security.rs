//! `security.istio.io`: unlike elsewhere, a field that isn't known is an error, because what it
//! would have restricted would go unrestricted.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::metadata::{Labels, Metadata, or_default};
use crate::mesh::policy::{MtlsMode, Selector, Target};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthentication {
    #[serde(rename = "apiVersion")]
    _api_version: Arc<str>,
    #[serde(rename = "kind")]
    _kind: Arc<str>,
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PeerAuthenticationSpec,
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    pub selector: Option<MatchLabels>,
    pub mtls: Option<MutualTls>,
    #[serde(default, deserialize_with = "or_default")]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchLabels {
    #[serde(default, deserialize_with = "or_default")]
    pub match_labels: Labels,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTls {
    #[serde(default, deserialize_with = "or_default")]
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: Arc<str>,
    #[serde(rename = "kind")]
    _kind: Arc<str>,
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: AuthorizationPolicySpec,
    #[serde(default, rename = "status")]
    _status: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    pub selector: Option<MatchLabels>,
    #[serde(rename = "targetRef")]
    _target_ref: Option<Value>,
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Value>,
    #[serde(rename = "action")]
    _action: Option<Value>,
    #[serde(rename = "rules")]
    _rules: Option<Value>,
    #[serde(rename = "provider")]
    _provider: Option<Value>,
}

impl Mode {
    /// `None` inherits.
    pub fn mtls_mode(self) -> Option<MtlsMode> {
        match self {
            Self::Unset => None,
            Self::Disable | Self::Permissive => Some(MtlsMode::Permissive),
            Self::Strict => Some(MtlsMode::Strict),
        }
    }
}

/// Whom a policy that can't be read in full is for. What of its target is unreadable widens it: from
/// the selected workloads to its namespace, and to the whole mesh if not even that can be told.
pub fn target(value: &Value, root_namespace: &str) -> Target {
    let namespace = match value.pointer("/metadata/namespace") {
        None | Some(Value::Null) => Some("default"),
        Some(namespace) => namespace.as_str(),
    };
    let selector = match value.pointer("/spec/selector") {
        None => Selector::default(),
        Some(selector) => MatchLabels::deserialize(selector)
            .map(|selector| Selector(selector.match_labels))
            .unwrap_or_default(),
    };
    Target {
        namespace: namespace
            .filter(|name| *name != root_namespace)
            .map(Arc::from),
        selector,
    }
}
