//! Policies to what decides, and what their authors should know.

use std::sync::Arc;

use crate::{
    mesh::policy::{Policy, PolicyKey, PolicyKind},
    source::kubernetes_objects::{Kind, Object, ObjectKey, security::authorization::unenforceable},
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

pub(super) fn of(object: &Object) -> Option<Policy> {
    match object {
        Object::PeerAuthentication(policy) => Some(Policy::PeerAuthentication(policy.clone())),
        Object::AuthorizationPolicy(policy) => Some(Policy::Authorization(Arc::clone(policy))),
        Object::Unreadable(policy) => Some(Policy::FailClosed(policy.clone())),
        _ => None,
    }
}

/// What of a readable policy can't be enforced, or what stands in for one that can't be read; and
/// how people call it.
pub(super) fn problems(key: &ObjectKey, object: Option<&Object>) -> (String, Vec<String>) {
    match object {
        Some(Object::AuthorizationPolicy(policy)) => {
            let problems =
                unenforceable(policy).map(|(path, message)| format!("{path}: {message}"));
            (key.to_string(), problems.collect())
        }
        Some(Object::Unreadable(policy)) => {
            let problem = format!("denies {}: {}", policy.target, policy.denial.reason);
            (policy.denial.policy.to_string(), vec![problem])
        }
        _ => (key.to_string(), Vec::new()),
    }
}
