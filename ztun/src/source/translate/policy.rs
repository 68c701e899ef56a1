//! Policies to what decides, and what their authors should know.

use std::{collections::BTreeMap, sync::Arc};

use super::ObjectProblem;
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

/// What of readable policies can't be enforced, and what stands in for those that can't be read.
pub(super) fn problems(objects: &BTreeMap<ObjectKey, Arc<Object>>) -> Vec<ObjectProblem> {
    let mut problems = Vec::new();
    for (key, object) in objects {
        match &**object {
            Object::AuthorizationPolicy(policy) => {
                let unenforceable = unenforceable(policy);
                problems.extend(
                    unenforceable.map(|(path, message)| {
                        ObjectProblem::new(key, format!("{path}: {message}"))
                    }),
                );
            }
            Object::Unreadable(policy) => problems.push(ObjectProblem {
                key: key.clone(),
                object: policy.denial.policy.to_string(),
                message: format!("denies {}: {}", policy.target, policy.denial.reason),
            }),
            _ => {}
        }
    }
    problems
}
