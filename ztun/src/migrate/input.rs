//! What is migrated, and the objects that help with it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Origin,
    legacy::{
        Legacy,
        authentication::PolicySpec,
        destination_rule::DestinationRuleSpec,
        rbac::{RbacConfigSpec, ServiceRoleBindingSpec, ServiceRoleSpec},
    },
    names::Existing,
    services::{Services, Template},
};
use crate::source::{
    Problem,
    document::{self, Document},
    kubernetes_objects::{core::Service, items},
};

/// Lists within lists.
const MAX_DEPTH: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Several documents, of which one that is broken leaves the others readable.
    Yaml,
    Json,
}

/// Objects in the order of their names, whatever the order of the files.
#[derive(Debug, Default)]
pub struct Input {
    pub(super) mesh_policies: Objects<PolicySpec>,
    pub(super) policies: Objects<PolicySpec>,
    pub(super) destination_rules: Objects<DestinationRuleSpec>,
    pub(super) cluster_rbac_configs: Objects<RbacConfigSpec>,
    pub(super) rbac_configs: Objects<RbacConfigSpec>,
    pub(super) roles: Objects<ServiceRoleSpec>,
    pub(super) bindings: Objects<ServiceRoleBindingSpec>,
    pub(super) services: Services,
    /// Policies of today.
    pub(super) existing: Vec<Existing>,
    /// Of legacy groups, and of no kind that is known.
    pub(super) without_equivalent: Vec<Origin>,
    problems: Vec<Problem>,
}

/// By namespace and name.
pub(super) type Objects<S> = BTreeMap<(Arc<str>, Arc<str>), Found<S>>;

#[derive(Debug)]
pub(super) struct Found<S> {
    pub origin: Origin,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub spec: S,
}

impl Input {
    /// What could not be read. A migration of the rest may leave out anything: it is worth nothing.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether there is something to migrate.
    pub fn is_empty(&self) -> bool {
        self.mesh_policies.is_empty()
            && self.policies.is_empty()
            && self.destination_rules.is_empty()
            && self.cluster_rbac_configs.is_empty()
            && self.rbac_configs.is_empty()
            && self.roles.is_empty()
            && self.bindings.is_empty()
            && self.without_equivalent.is_empty()
    }

    /// Reads the objects of a file's text; `file` is what messages call it.
    pub fn read(&mut self, file: &str, format: Format, text: &str) {
        let whole = Document { line: 1, text };
        let documents = match format {
            Format::Json => vec![(1, document::parse_json(whole.text))],
            Format::Yaml => document::split(text)
                .into_iter()
                .map(|document| (document.line, document::parse_yaml(document)))
                .collect(),
        };
        for (line, value) in documents {
            match value {
                Ok(Value::Null) => {}
                Ok(value) => self.value(file, line, value, 0),
                Err(error) => self.problem(file, "", format!("not readable: {error}")),
            }
        }
    }

    /// For what can't even be opened.
    pub fn unreadable(&mut self, file: &str, error: impl std::fmt::Display) {
        self.problem(file, "", error.to_string());
    }

    fn value(&mut self, file: &str, line: usize, mut value: Value, depth: usize) {
        if depth < MAX_DEPTH
            && let Some(list) = items(&mut value)
        {
            for item in list {
                self.value(file, line, item, depth + 1);
            }
            return;
        }
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let message = "not a Kubernetes object: `apiVersion` or `kind` is missing";
            return self.problem(file, "", format!("line {line}: {message}"));
        };
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let name = text("/metadata/name").unwrap_or_default();
        let cluster_wide = matches!(kind, "MeshPolicy" | "ClusterRbacConfig");
        let namespace = match text("/metadata/namespace") {
            _ if cluster_wide => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let separator = if cluster_wide { "" } else { "/" };
        let object = format!("{kind} {namespace}{separator}{name}");
        let object = object.trim_end();
        let found = Header {
            origin: Origin::new(file, line, object),
            namespace: namespace.into(),
            name: name.into(),
        };
        if let Err(message) = self.object(group, kind, &value, &found) {
            self.problem(file, object, format!("line {line}: {message}"));
        }
    }

    fn object(
        &mut self,
        group: &str,
        kind: &str,
        value: &Value,
        header: &Header,
    ) -> Result<(), String> {
        // Whatever the exact group says: a typo there must not make a policy disappear.
        let is_istio = group.ends_with("istio.io");
        match kind {
            "MeshPolicy" => insert(&mut self.mesh_policies, value, header),
            "Policy" if is_istio => insert(&mut self.policies, value, header),
            "ClusterRbacConfig" => insert(&mut self.cluster_rbac_configs, value, header),
            "RbacConfig" => insert(&mut self.rbac_configs, value, header),
            "ServiceRole" => insert(&mut self.roles, value, header),
            "ServiceRoleBinding" => insert(&mut self.bindings, value, header),
            "DestinationRule" if is_istio => insert(&mut self.destination_rules, value, header),
            "PeerAuthentication" | "AuthorizationPolicy" if group == "security.istio.io" => {
                self.existing.push(Existing {
                    kind: if kind == "PeerAuthentication" {
                        "PeerAuthentication"
                    } else {
                        "AuthorizationPolicy"
                    },
                    namespace: Arc::clone(&header.namespace),
                    name: Arc::clone(&header.name),
                });
                Ok(())
            }
            _ if matches!(group, "authentication.istio.io" | "rbac.istio.io") => {
                self.without_equivalent.push(header.origin.clone());
                Ok(())
            }
            "Service" if group.is_empty() => {
                let service: Service = typed(value)?;
                self.services.insert(&header.namespace, &service)
            }
            _ => {
                if let Some(template) = template(group, kind, value) {
                    self.services.add_template(&header.namespace, template);
                }
                Ok(())
            }
        }
    }

    fn problem(&mut self, file: &str, object: &str, message: String) {
        self.problems.push(Problem {
            file: PathBuf::from(file),
            object: object.to_owned(),
            message,
        });
    }
}

struct Header {
    origin: Origin,
    namespace: Arc<str>,
    name: Arc<str>,
}

fn insert<S: DeserializeOwned + Default + PartialEq>(
    objects: &mut Objects<S>,
    value: &Value,
    header: &Header,
) -> Result<(), String> {
    let legacy: Legacy<S> = typed(value)?;
    let key = (Arc::clone(&header.namespace), legacy.metadata.name);
    match objects.get(&key) {
        Some(other) if other.spec == legacy.spec => Ok(()),
        Some(other) => Err(format!(
            "{}:{} says something else under the same name: remove the one that is not in force",
            other.origin.file, other.origin.line
        )),
        None => {
            let found = Found {
                origin: header.origin.clone(),
                namespace: Arc::clone(&key.0),
                name: Arc::clone(&key.1),
                spec: legacy.spec,
            };
            objects.insert(key, found);
            Ok(())
        }
    }
}

/// The path of the wrong field comes first in the message.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string() {
        path if path == "." => error.into_inner().to_string(),
        path => format!("{path}: {}", error.into_inner()),
    })
}

/// A pod, or what a controller makes pods from: they give named ports their numbers. One that can't
/// be read helps nobody; a port that it would have explained is reported.
fn template(group: &str, kind: &str, value: &Value) -> Option<Template> {
    let pod = match (group, kind) {
        ("", "Pod") => value,
        ("apps" | "extensions", _) => value.pointer("/spec/template")?,
        _ => return None,
    };
    Template::deserialize(pod).ok()
}
