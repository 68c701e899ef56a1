//! `when` of an `AuthorizationPolicy`'s rule.

use super::values;
use crate::{
    mesh::policy::authorization::{Condition, Values},
    source::kubernetes_objects::fields::{Fields, Node, Problems, any_of},
};

const LAYER7_KEYS: [&str; 5] = [
    "connection.sni",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.principal",
    "source.trustDomain",
];
/// These are followed by a name in brackets.
const LAYER7_NAMED_KEYS: [&str; 3] = [
    "request.headers",
    "request.auth.claims",
    "experimental.envoy.filters.",
];
const LAYER4_KEYS: [&str; 7] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
];

pub(super) enum AtLayer {
    Four(Condition),
    /// With its key.
    Seven(String),
}

pub(super) fn condition(
    node: &Node<'_>,
    own_namespace: &str,
    problems: &mut Problems,
) -> Option<AtLayer> {
    let fields = node.fields(&["key", "values", "notValues"], problems)?;
    let Some(key_node) = fields.get("key") else {
        problems.add(fields.path(), "`key` is missing");
        return None;
    };
    let key = key_node.text(problems)?;
    let has_values = ["values", "notValues"].iter().any(|name| {
        let values = fields.get(name);
        values.is_some_and(|values| values.value.as_array().is_none_or(|list| !list.is_empty()))
    });
    if !has_values {
        problems.add(
            fields.path(),
            "`values` or `notValues` must name at least one value",
        );
        return None;
    }
    let account = |text: &str| values::service_account(text, own_namespace);
    let condition = match key {
        "source.ip" => Condition::SourceIp(both(&fields, values::ip_block, problems)),
        "remote.ip" => Condition::RemoteIp(both(&fields, values::ip_block, problems)),
        "destination.ip" => Condition::DestinationIp(both(&fields, values::ip_block, problems)),
        "source.namespace" => {
            Condition::SourceNamespace(both(&fields, values::namespace, problems))
        }
        "source.principal" => {
            Condition::SourcePrincipal(both(&fields, values::principal, problems))
        }
        "source.serviceAccount" => {
            Condition::SourceServiceAccount(both(&fields, account, problems))
        }
        "destination.port" => Condition::DestinationPort(both(&fields, values::port, problems)),
        _ => {
            both(&fields, |_| Ok(()), problems);
            let known = layer7_key(key).map_err(|message| problems.add(&key_node.path, message));
            return known.ok().map(|()| AtLayer::Seven(key.to_owned()));
        }
    };
    Some(AtLayer::Four(condition))
}

/// Whether layer 7 knows the key, or what is wrong with it.
fn layer7_key(key: &str) -> Result<(), String> {
    if LAYER7_KEYS.contains(&key) {
        return Ok(());
    }
    let named = LAYER7_NAMED_KEYS
        .iter()
        .find(|name| key.starts_with(**name));
    if let Some(name) = named {
        let has_name = key
            .strip_suffix(']')
            .and_then(|key| key.split_once('['))
            .is_some_and(|(_, name)| !name.is_empty());
        return if has_name {
            Ok(())
        } else {
            Err(format!(
                "`{key}` lacks a name in brackets, such as `{name}[x]`"
            ))
        };
    }
    match key {
        "destination.namespace" => {
            Err("`destination.namespace` is not a condition any more: a policy is for its own namespace".to_owned())
        }
        "destination.name" | "destination.user" => Err(format!(
            "`{key}` is not a condition any more: use `spec.selector`"
        )),
        _ if key.starts_with("destination.labels") => Err(format!(
            "`{key}` is not a condition any more: use `spec.selector`"
        )),
        _ => Err(format!(
            "`{key}` is not an attribute, expected {} (and those of layer 7)",
            any_of(&LAYER4_KEYS)
        )),
    }
}

fn both<T>(
    fields: &Fields<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) -> Values<T> {
    // An empty one of the two is as if it weren't there.
    let mut list = |name| {
        let items = fields.get(name).map(|node| node.items(problems));
        let items = items.unwrap_or_default().into_iter();
        items
            .filter_map(|item| item.parsed(&parse, problems))
            .collect()
    };
    Values {
        values: list("values"),
        not_values: list("notValues"),
    }
}
