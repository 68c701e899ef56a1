//! `security.istio.io/v1` as it is printed.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use super::{Draft, Origin};
use crate::source::kubernetes_objects::Labels;

const API_VERSION: &str = "security.istio.io/v1";
const DRY_RUN: &str = "istio.io/dry-run";
const MIGRATED_FROM: &str = "migrated-from";

/// A policy and the objects that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct MigratedPolicy {
    pub from: Vec<Origin>,
    pub policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Policy {
    PeerAuthentication(Manifest<PeerAuthenticationSpec>),
    AuthorizationPolicy(Manifest<AuthorizationPolicySpec>),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest<S> {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub metadata: Metadata,
    pub spec: S,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metadata {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub annotations: BTreeMap<&'static str, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    #[serde(skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: Labels,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MutualTls {
    pub mode: Mode,
}

/// In order: from the most open to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    Disable,
    Permissive,
    Strict,
}

/// Without rules it allows nobody.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AuthorizationPolicySpec {
    #[serde(skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    Allow,
}

/// Without any part it allows everybody everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<From>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<To>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct From {
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct To {
    pub operation: Operation,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_blocks: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ip_blocks: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

/// Whether a policy decides, or only reports what it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InForce {
    Yes,
    DryRun,
}

impl Selector {
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty()
    }

    /// Whether a workload can carry the labels of both.
    pub fn may_meet(&self, other: &Self) -> bool {
        let mut labels = self.match_labels.iter();
        labels.all(|(key, value)| {
            let theirs = other.match_labels.get(key);
            theirs.is_none_or(|theirs| theirs == value)
        })
    }
}

impl Rule {
    /// Paths of what layer 4 can't see.
    pub fn layer7(&self) -> Vec<String> {
        let operations = self.to.iter().enumerate().flat_map(|(index, to)| {
            let names = to.operation.layer7();
            names.map(move |name| format!("to[{index}].operation.{name}"))
        });
        let conditions = self.when.iter().enumerate();
        let conditions = conditions.filter(|(_, condition)| condition.is_layer7());
        operations
            .chain(conditions.map(|(index, _)| format!("when[{index}]")))
            .collect()
    }

    /// Whether some condition is of layer 7.
    pub fn has_layer7_condition(&self) -> bool {
        self.when.iter().any(Condition::is_layer7)
    }
}

impl Operation {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Names of the fields in use that layer 4 can't see.
    pub fn layer7(&self) -> impl Iterator<Item = &'static str> {
        [
            ("hosts", &self.hosts),
            ("notHosts", &self.not_hosts),
            ("methods", &self.methods),
            ("notMethods", &self.not_methods),
            ("paths", &self.paths),
            ("notPaths", &self.not_paths),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, _)| name)
    }
}

impl Condition {
    pub fn new(key: impl Into<String>, values: Vec<String>) -> Self {
        Self {
            key: key.into(),
            values,
            not_values: Vec::new(),
        }
    }

    pub fn is_layer7(&self) -> bool {
        !self.key.starts_with("source.") && !self.key.starts_with("destination.")
    }
}

impl Policy {
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::PeerAuthentication(manifest) => &manifest.metadata,
            Self::AuthorizationPolicy(manifest) => &manifest.metadata,
        }
    }
}

impl Serialize for MigratedPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.policy.serialize(serializer)
    }
}

impl Draft {
    /// Answers the policy's name.
    pub(super) fn peer_authentication(
        &mut self,
        namespace: &Arc<str>,
        name: &str,
        from: Vec<Origin>,
        spec: PeerAuthenticationSpec,
    ) -> Arc<str> {
        let manifest = self.manifest("PeerAuthentication", namespace, name, &from, spec);
        let name = Arc::clone(&manifest.metadata.name);
        let policy = Policy::PeerAuthentication(manifest);
        self.policies.push(MigratedPolicy { from, policy });
        name
    }

    /// Answers the policy's name.
    pub(super) fn authorization_policy(
        &mut self,
        namespace: &Arc<str>,
        name: &str,
        from: Vec<Origin>,
        in_force: InForce,
        spec: AuthorizationPolicySpec,
    ) -> Arc<str> {
        let mut manifest = self.manifest("AuthorizationPolicy", namespace, name, &from, spec);
        if in_force == InForce::DryRun {
            let annotations = &mut manifest.metadata.annotations;
            annotations.insert(DRY_RUN, "true".to_owned());
        }
        let name = Arc::clone(&manifest.metadata.name);
        let policy = Policy::AuthorizationPolicy(manifest);
        self.policies.push(MigratedPolicy { from, policy });
        name
    }

    fn manifest<S>(
        &mut self,
        kind: &'static str,
        namespace: &Arc<str>,
        name: &str,
        from: &[Origin],
        spec: S,
    ) -> Manifest<S> {
        let objects: Vec<&str> = from.iter().map(|origin| &*origin.object).collect();
        Manifest {
            api_version: API_VERSION,
            kind,
            metadata: Metadata {
                name: self.names.take(kind, namespace, name),
                namespace: Arc::clone(namespace),
                annotations: BTreeMap::from([(MIGRATED_FROM, objects.join(", "))]),
            },
            spec,
        }
    }
}
