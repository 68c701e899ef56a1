//! What can be told of policies that can be read.

mod ports;
mod shadowed;
mod sources;
mod target;
mod ties;

use std::sync::Arc;

use super::{
    directory::{Directory, Place},
    finding::{Check, Finding, Severity},
    inventory::Inventory,
};
use crate::{
    mesh::policy::{PeerAuthentication, Target, authorization::AuthorizationPolicy},
    source::{
        field::FieldPath,
        kubernetes_objects::{
            Object, ObjectKey, ReadContext, security::authorization::unenforceable,
        },
    },
};

/// A policy, whom it is for, and where it stands.
struct Located<'a, P> {
    key: &'a ObjectKey,
    policy: &'a P,
    target: Target,
    place: &'a Place,
}

pub(super) fn run(directory: &Directory, context: ReadContext<'_>) -> Vec<Finding> {
    let inventory = &directory.inventory;
    let (authorizations, authentications) = located(directory, context);
    let mut findings = Vec::new();
    for policy in &authorizations {
        findings.extend(layer7(policy));
        findings.extend(target::check(policy, inventory, context));
        findings.extend(sources::check(policy, inventory, context));
        findings.extend(ports::of_rules(policy, inventory));
        findings.extend(shadowed::within(policy));
    }
    let (ignored, authentications): (Vec<_>, Vec<_>) = authentications
        .into_iter()
        .partition(|located| located.policy.is_ignored(context.root_namespace));
    for located in &ignored {
        let field = FieldPath::of("spec.selector");
        let message = PeerAuthentication::IGNORED.to_owned();
        findings.push(located.warning(Check::NoEffect, &field, message));
    }
    for policy in &authentications {
        findings.extend(target::check(policy, inventory, context));
        findings.extend(ports::of_modes(policy, inventory));
    }
    findings.extend(shadowed::between(&authorizations));
    findings.extend(ties::check(&authentications, inventory));
    findings
}

type Authorizations<'a> = Vec<Located<'a, AuthorizationPolicy>>;
type Authentications<'a> = Vec<Located<'a, PeerAuthentication>>;

fn located<'a>(
    directory: &'a Directory,
    context: ReadContext<'_>,
) -> (Authorizations<'a>, Authentications<'a>) {
    let (mut authorizations, mut authentications) = (Authorizations::new(), Authentications::new());
    for (key, object, place) in directory.policies() {
        let own = Some(Arc::clone(&key.namespace));
        let in_root = *key.namespace == *context.root_namespace;
        match object {
            Object::AuthorizationPolicy(policy) => authorizations.push(Located {
                key,
                policy,
                target: Target {
                    namespace: own.filter(|_| !in_root),
                    selector: policy.selector.clone(),
                },
                place,
            }),
            Object::PeerAuthentication(policy) => authentications.push(Located {
                key,
                policy,
                target: Target {
                    namespace: own.filter(|_| !in_root),
                    selector: policy.selector.clone(),
                },
                place,
            }),
            _ => {}
        }
    }
    (authorizations, authentications)
}

fn layer7(located: &Located<'_, AuthorizationPolicy>) -> Vec<Finding> {
    let unenforceable = unenforceable(located.policy);
    unenforceable
        .map(|(path, message)| located.warning(Check::Layer7, &path, message))
        .collect()
}

impl<P> Located<'_, P> {
    fn warning(&self, check: Check, field: &FieldPath, message: String) -> Finding {
        let object = self.key.to_string();
        self.place
            .finding(Severity::Warning, check, &object, field, message)
    }
}
