//! `rbac.istio.io/v1alpha1`: `ClusterRbacConfig`, `RbacConfig`, `ServiceRole` and
//! `ServiceRoleBinding`, with the fields that the documentation hid.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use super::Unknown;
use crate::source::kubernetes_objects::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RbacConfigSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub mode: RbacMode,
    #[serde(default, deserialize_with = "or_default")]
    pub inclusion: RbacTarget,
    #[serde(default, deserialize_with = "or_default")]
    pub exclusion: RbacTarget,
    #[serde(default, deserialize_with = "or_default", alias = "enforcement_mode")]
    pub enforcement_mode: EnforcementMode,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RbacMode {
    #[default]
    Off,
    On,
    OnWithInclusion,
    OnWithExclusion,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct RbacTarget {
    /// Host names, such as `httpbin.foo.svc.cluster.local`.
    #[serde(default, deserialize_with = "or_default")]
    pub services: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: Vec<Arc<str>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EnforcementMode {
    #[default]
    Enforced,
    /// It is logged, and decides nothing.
    Permissive,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ServiceRoleSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub rules: Vec<AccessRule>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// All of its fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Host names, `prefix*`, `*suffix`, and `*` for the namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub services: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_hosts")]
    pub not_hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_paths")]
    pub not_paths: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub methods: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_methods")]
    pub not_methods: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<u16>,
    #[serde(default, deserialize_with = "or_default", alias = "not_ports")]
    pub not_ports: Vec<u16>,
    #[serde(default, deserialize_with = "or_default")]
    pub constraints: Vec<Constraint>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Constraint {
    pub key: String,
    /// One of them must match. Istio's own examples of 1.0 say `value`.
    #[serde(default, deserialize_with = "or_default", alias = "value")]
    pub values: Vec<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRoleBindingSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub subjects: Vec<Subject>,
    pub role_ref: Option<RoleRef>,
    #[serde(default, deserialize_with = "or_default")]
    pub mode: EnforcementMode,
    /// A role written out in place.
    #[serde(default, deserialize_with = "or_default")]
    pub actions: Vec<AccessRule>,
    /// Another way to write `roleRef`; with a leading `/` it is one of the root namespace.
    pub role: Option<Arc<str>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RoleRef {
    pub name: Arc<str>,
}

/// All of its fields must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// `*` is everybody, authenticated or not.
    pub user: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_names")]
    pub not_names: Vec<String>,
    pub group: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub groups: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_groups")]
    pub not_groups: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_namespaces")]
    pub not_namespaces: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default", alias = "not_ips")]
    pub not_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
