//! Whom a policy that can't be read in full is for.

use std::sync::Arc;

use serde_json::Value;

use super::selector_of;
use crate::{
    mesh::policy::{Selector, Target},
    source::{
        field::FieldPath,
        kubernetes_objects::{
            Kind, ObjectKey,
            fields::{Node, Problems},
        },
    },
};

/// The target of a policy, and the services that narrow it, if it is for services alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTarget {
    pub target: Target,
    pub services: Vec<ObjectKey>,
}

/// What of its target is unreadable widens it: from the selected workloads to its namespace, and to
/// the whole mesh if not even that can be told. What is behind a gateway can't be told either.
pub fn target(value: &Value, root_namespace: &str) -> ReadTarget {
    let namespace = match value.pointer("/metadata/namespace") {
        None | Some(Value::Null) => Some("default"),
        Some(namespace) => namespace.as_str(),
    };
    let selector = value.pointer("/spec/selector").filter(|it| !it.is_null());
    let references = references(value);
    // One for a service is for its own namespace, in the root namespace too.
    let services = namespace.and_then(|namespace| services(namespace, &references));
    let covers_mesh = namespace.is_none_or(|name| name == root_namespace) && services.is_none();
    ReadTarget {
        target: Target {
            namespace: namespace.filter(|_| !covers_mesh).map(Arc::from),
            // With both, it is for the one and the other.
            selector: selector
                .filter(|_| references.is_empty())
                .map(selected)
                .unwrap_or_default(),
        },
        services: services.filter(|_| selector.is_none()).unwrap_or_default(),
    }
}

fn selected(value: &Value) -> Selector {
    let mut problems = Problems::default();
    let path = FieldPath::default();
    let selector = selector_of(&Node { path, value }, &mut problems);
    problems.or(selector).unwrap_or_default()
}

fn references(value: &Value) -> Vec<&Value> {
    let one = value.pointer("/spec/targetRef");
    let several = value.pointer("/spec/targetRefs");
    let several = several.into_iter().flat_map(|value| match value {
        Value::Array(items) => items.iter().collect(),
        value => vec![value],
    });
    one.into_iter()
        .chain(several)
        .filter(|value| !value.is_null())
        .collect()
}

/// `None` unless there are references and all are to services.
fn services(namespace: &str, references: &[&Value]) -> Option<Vec<ObjectKey>> {
    let service = |reference: &&Value| {
        let text = |field| reference.get(field).and_then(Value::as_str);
        let kind = match (text("group").unwrap_or_default(), text("kind")?) {
            ("" | "core", "Service") => Kind::Service,
            ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
            _ => return None,
        };
        let is_own = text("namespace").is_none_or(|own| own == namespace);
        is_own.then_some(ObjectKey {
            namespace: namespace.into(),
            kind,
            name: text("name")?.into(),
        })
    };
    let services: Option<Vec<_>> = references.iter().map(service).collect();
    services.filter(|services| !services.is_empty())
}
