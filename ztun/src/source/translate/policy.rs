//! Policies to what decides, and what their authors should know.

use std::{collections::BTreeMap, sync::Arc};

use super::ObjectProblem;
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

pub(super) fn of(object: &Object, objects: &BTreeMap<ObjectKey, Arc<Object>>) -> Option<Policy> {
    match object {
        Object::PeerAuthentication(policy) => Some(Policy::PeerAuthentication(policy.clone())),
        Object::AuthorizationPolicy(policy) => Some(Policy::Authorization(Arc::clone(policy))),
        Object::Unreadable(policy) => Some(Policy::FailClosed(closed(policy, objects))),
        _ => None,
    }
}

/// What of readable policies can't be enforced, and what stands in for those that can't be read.
pub(super) fn problems(
    objects: &BTreeMap<ObjectKey, Arc<Object>>,
    root_namespace: &str,
) -> Vec<ObjectProblem> {
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
            Object::PeerAuthentication(policy) if policy.is_ignored(root_namespace) => {
                let message = format!("spec.selector: {}", PeerAuthentication::IGNORED);
                problems.push(ObjectProblem::new(key, message));
            }
            Object::Unreadable(policy) => {
                let FailClosed { target, denial } = closed(policy, objects);
                problems.push(ObjectProblem {
                    key: key.clone(),
                    object: denial.policy.to_string(),
                    message: format!("denies {target}: {}", denial.reason),
                });
            }
            _ => {}
        }
    }
    problems
}

fn closed(policy: &Unreadable, objects: &BTreeMap<ObjectKey, Arc<Object>>) -> FailClosed {
    policy.closed(|key| objects.get(key).map(AsRef::as_ref))
}

/// The policies whose target depends on a service.
pub(super) fn that_name<'a>(
    service: &'a ObjectKey,
    objects: &'a BTreeMap<ObjectKey, Arc<Object>>,
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
