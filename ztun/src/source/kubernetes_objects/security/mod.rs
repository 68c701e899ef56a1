//! `security.istio.io`: policies, read in full or not at all.

pub mod authorization;
mod condition;
mod peer_authentication;
mod target;
pub(crate) mod values;

use serde_json::Value;

pub use self::target::{ReadTarget, target};
pub(super) use self::{
    authorization::authorization_policy, peer_authentication::peer_authentication,
};
use super::{
    Labels,
    fields::{Fields, Node, Problems},
    metadata::Metadata,
    typed,
};
use crate::mesh::policy::Selector;

const DRY_RUN: &str = "istio.io/dry-run";

/// What every policy has.
struct Policy<'a> {
    /// `None` where nothing is said, or nothing readable.
    spec: Option<Node<'a>>,
    metadata: Option<Metadata>,
}

impl<'a> Policy<'a> {
    fn of(value: &'a Value, problems: &mut Problems) -> Self {
        let allowed = ["apiVersion", "kind", "metadata", "spec", "status"];
        let fields = Node::root(value).fields(&allowed, problems);
        let get = |name| {
            fields
                .as_ref()
                .and_then(|fields: &Fields<'a>| fields.get(name))
        };
        Self {
            spec: get("spec"),
            metadata: get("metadata").and_then(|node| metadata(&node, problems)),
        }
    }
}

/// Labels and annotations that aren't text are a common slip: they get a better message than that
/// of the type.
fn metadata(node: &Node<'_>, problems: &mut Problems) -> Option<Metadata> {
    let mut own = Problems::default();
    let fields = node.entries("an object with name and namespace", &mut own);
    for name in ["labels", "annotations"] {
        let entries = fields.as_ref().and_then(|fields| fields.get(name));
        let entries = entries.and_then(|node| node.entries("names and their values", &mut own));
        for (_, node) in entries.iter().flat_map(Fields::nodes) {
            if !node.value.is_string() {
                node.text(&mut own);
            }
        }
    }
    let typed = own.or(()).and_then(|()| typed(node.value, &node.path));
    typed.map_err(|wrong| problems.extend(wrong)).ok()
}

/// Whether a policy that can't be read decides nothing for certain: it needs nothing in its place.
pub fn decides_nothing(value: &Value) -> bool {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    text("/kind") == Some("AuthorizationPolicy")
        && (text("/metadata/annotations/istio.io~1dry-run") == Some("true")
            || text("/spec/action") == Some("AUDIT"))
}

fn selector_of(node: &Node<'_>, problems: &mut Problems) -> Selector {
    let fields = node.fields(&["matchLabels"], problems);
    let labels = fields.and_then(|fields| fields.get("matchLabels"));
    let labels = labels.and_then(|labels| labels.entries("labels and their values", problems));
    let mut selector = Labels::new();
    for (label, node) in labels.iter().flat_map(Fields::nodes) {
        if label.is_empty() || label.contains('*') {
            problems.add(
                &node.path,
                "is not a label's name: patterns are not possible",
            );
        }
        // Unlike other texts, a label's value may be empty.
        let value = match node.value {
            Value::String(value) => value.as_str(),
            _ => node.text(problems).unwrap_or_default(),
        };
        if value.contains('*') {
            let message =
                format!("`{value}`: a label is compared as it is, patterns are not possible");
            problems.add(&node.path, message);
        }
        selector.insert(label.into(), value.into());
    }
    Selector(selector)
}

#[cfg(test)]
mod tests;
