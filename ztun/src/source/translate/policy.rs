//! Policies to what is enforced, and what their authors should know.

use std::{collections::BTreeMap, sync::Arc};

use super::{ObjectProblem, TranslateSettings};
use crate::{
    mesh::{
        Denial, Policies,
        policy::{
            FailClosed, PeerAuthentications, Target,
            authorization::{Action, AuthorizationPolicy},
        },
    },
    source::kubernetes_objects::{Object, ObjectKey, security::authorization::unenforceable},
};

type Objects = BTreeMap<ObjectKey, Arc<Object>>;

pub(super) fn policies(objects: &Objects, settings: &TranslateSettings) -> Policies {
    let mut peer_authentications = Vec::new();
    let mut fail_closed = Vec::new();
    for (key, object) in objects {
        match &**object {
            Object::PeerAuthentication(policy) => peer_authentications.push(policy.clone()),
            Object::AuthorizationPolicy(policy) => {
                fail_closed.extend(closed(key, policy, settings));
            }
            Object::Unreadable(policy) => fail_closed.push(policy.clone()),
            _ => {}
        }
    }
    Policies {
        peer_authentications: PeerAuthentications::new(
            &settings.root_namespace,
            peer_authentications,
        ),
        fail_closed,
    }
}

/// What is wrong with policies that can be read, and what stands in for those that can't.
pub(super) fn problems(objects: &Objects, settings: &TranslateSettings) -> Vec<ObjectProblem> {
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
                let closed = closed(key, policy, settings);
                problems.extend(closed.map(|policy| closed_target(key, &policy)));
            }
            Object::Unreadable(policy) => problems.push(closed_target(key, policy)),
            _ => {}
        }
    }
    problems
}

fn closed_target(key: &ObjectKey, policy: &FailClosed) -> ObjectProblem {
    ObjectProblem {
        key: key.clone(),
        object: policy.denial.policy.to_string(),
        message: format!("denies {}: {}", policy.target, policy.denial.reason),
    }
}

/// Nobody may enter what a policy is for whose rules are not enforced, unless it decides nothing.
fn closed(
    key: &ObjectKey,
    policy: &AuthorizationPolicy,
    settings: &TranslateSettings,
) -> Option<FailClosed> {
    if policy.dry_run || policy.action == Action::Audit {
        return None;
    }
    let in_root = policy.namespace == settings.root_namespace;
    Some(FailClosed {
        target: Target {
            namespace: (!in_root).then(|| Arc::clone(&policy.namespace)),
            selector: policy.selector.clone(),
        },
        denial: Denial {
            policy: key.to_string().into(),
            reason: "this version does not support AuthorizationPolicy, so nobody may enter what it is for: remove the policy or use a version that supports it".into(),
        },
    })
}
