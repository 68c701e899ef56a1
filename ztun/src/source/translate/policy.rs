//! Policies to what decides, and what their authors should know.

use std::sync::Arc;

use super::namespace::Objects;
use crate::{
    mesh::policy::{FailClosed, PeerAuthentication, Policy, PolicyKey, PolicyKind},
    source::kubernetes_objects::{
        Kind, Object, ObjectKey, Unreadable, security::authorization::unenforceable,
    },
};

pub(super) fn key(key: &ObjectKey) -> Option<PolicyKey> {
    let kind = match key.kind {
        Kind::PeerAuthentication => PolicyKind::PeerAuthentication,
        Kind::AuthorizationPolicy => PolicyKind::AuthorizationPolicy,
        _ => return None,
    };
    Some(PolicyKey {
        kind,
        namespace: Arc::clone(&key.namespace),
        name: Arc::clone(&key.name),
    })
}

pub(super) fn of(object: &Object, objects: &Objects) -> Option<Policy> {
    match object {
        Object::PeerAuthentication(policy) => Some(Policy::PeerAuthentication(policy.clone())),
        Object::AuthorizationPolicy(policy) => Some(Policy::Authorization(Arc::clone(policy))),
        Object::Unreadable(policy) => Some(Policy::FailClosed(closed(policy, objects))),
        _ => None,
    }
}

/// What of a readable policy can't be enforced, or what stands in for one that can't be read; and
/// how people call it.
pub(super) fn problems(
    key: &ObjectKey,
    object: Option<&Object>,
    objects: &Objects,
    root_namespace: &str,
) -> (String, Vec<String>) {
    match object {
        Some(Object::AuthorizationPolicy(policy)) => {
            let problems =
                unenforceable(policy).map(|(path, message)| format!("{path}: {message}"));
            (key.to_string(), problems.collect())
        }
        Some(Object::PeerAuthentication(policy)) if policy.is_ignored(root_namespace) => {
            let problem = format!("spec.selector: {}", PeerAuthentication::IGNORED);
            (key.to_string(), vec![problem])
        }
        Some(Object::Unreadable(policy)) => {
            let FailClosed { target, denial } = closed(policy, objects);
            let problem = format!("denies {target}: {}", denial.reason);
            (denial.policy.to_string(), vec![problem])
        }
        _ => (key.to_string(), Vec::new()),
    }
}

fn closed(policy: &Unreadable, objects: &Objects) -> FailClosed {
    policy.closed(|key| objects.get(key).map(AsRef::as_ref))
}

/// The policies whose target depends on a service.
pub(super) fn that_name<'a>(
    service: &'a ObjectKey,
    objects: &'a Objects,
) -> impl Iterator<Item = ObjectKey> + use<'a> {
    let first = ObjectKey {
        namespace: Arc::clone(&service.namespace),
        kind: Kind::AuthorizationPolicy,
        name: "".into(),
    };
    let policies = objects.range(first..).take_while(|(key, _)| {
        key.kind == Kind::AuthorizationPolicy && key.namespace == service.namespace
    });
    let naming = policies.filter(
        |(_, object)| matches!(&***object, Object::Unreadable(policy) if policy.names(service)),
    );
    naming.map(|(key, _)| key.clone())
}
