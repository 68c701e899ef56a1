//! `PeerAuthentication`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{Policy, selector_of, values};
use crate::{
    mesh::policy::{MtlsMode, PeerAuthentication},
    source::{
        field::FieldProblem,
        kubernetes_objects::{
            ObjectKey,
            fields::{Fields, Node, Problems},
        },
    },
};

/// `None` inherits. A node proxy doesn't refuse mutual TLS, so DISABLE permits both.
const MODES: [(&str, Option<MtlsMode>); 4] = [
    ("UNSET", None),
    ("DISABLE", Some(MtlsMode::Permissive)),
    ("PERMISSIVE", Some(MtlsMode::Permissive)),
    ("STRICT", Some(MtlsMode::Strict)),
];

pub(in super::super) fn peer_authentication(
    key: &ObjectKey,
    value: &Value,
) -> Result<PeerAuthentication, Vec<FieldProblem>> {
    let mut problems = Problems::default();
    let policy = Policy::of(value, &mut problems);
    let spec = policy
        .spec
        .and_then(|spec| spec.fields(&["selector", "mtls", "portLevelMtls"], &mut problems));
    let get = |name| spec.as_ref().and_then(|spec| spec.get(name));
    let selector = get("selector").map(|node| selector_of(&node, &mut problems));
    let selector = selector.unwrap_or_default();
    let ports = get("portLevelMtls");
    if let Some(ports) = &ports
        && selector.is_empty()
    {
        problems.add(
            &ports.path,
            "needs `spec.selector` with `matchLabels`: ports are those of selected workloads",
        );
    }
    let made = PeerAuthentication {
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
        created: policy
            .metadata
            .and_then(|metadata| metadata.creation_timestamp),
        selector,
        mode: get("mtls").and_then(|node| mode(&node, &mut problems)),
        port_modes: ports.map_or_else(BTreeMap::new, |ports| port_modes(&ports, &mut problems)),
    };
    problems.or(made)
}

fn port_modes(node: &Node<'_>, problems: &mut Problems) -> BTreeMap<u16, Option<MtlsMode>> {
    let mut modes = BTreeMap::new();
    let ports = node.entries("port numbers, each with its `mode`", problems);
    for (port, node) in ports.iter().flat_map(Fields::nodes) {
        let mode = mode(&node, problems);
        match values::port(port) {
            Ok(port) => {
                modes.insert(port, mode);
            }
            Err(message) => problems.add(&node.path, message),
        }
    }
    modes
}

fn mode(node: &Node<'_>, problems: &mut Problems) -> Option<MtlsMode> {
    let mode = node.fields(&["mode"], problems)?.get("mode")?;
    mode.word(&MODES, problems).flatten()
}
