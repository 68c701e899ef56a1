mod naive;
mod properties;
mod strategies;

use super::*;
use crate::mesh::fixture::{ip, workload};

fn key(kind: PolicyKind, name: &str) -> PolicyKey {
    PolicyKey::new(kind, "foo", name)
}

fn strict() -> Policy {
    Policy::PeerAuthentication(PeerAuthentication {
        namespace: "foo".into(),
        name: "default".into(),
        created: None,
        selector: Selector::default(),
        mode: Some(MtlsMode::Strict),
        port_modes: std::collections::BTreeMap::new(),
    })
}

fn closed(namespace: Option<&str>, app: &str) -> FailClosed {
    FailClosed {
        target: Target {
            namespace: namespace.map(Arc::from),
            selector: Selector([("app".into(), app.into())].into()),
        },
        denial: Denial {
            policy: "AuthorizationPolicy foo/p".into(),
            reason: "not supported".into(),
            hint: "wait".into(),
        },
    }
}

fn plaintext_to(destination: &Workload) -> Connection<'_> {
    Connection {
        source: None,
        source_address: (ip("10.0.0.2"), 40000).into(),
        destination,
        destination_address: (ip("10.0.0.1"), 80).into(),
    }
}

fn denied_by(policies: &Policies, connection: &Connection<'_>) -> Option<String> {
    match policies.authorize(connection) {
        Decision::Allow => None,
        Decision::Deny(denial) => Some(denial.policy.to_string()),
    }
}

#[test]
fn strict_denies_plaintext_by_name_and_lets_mutual_tls_in() {
    let mut policies = Policies::default();
    policies.insert(key(PolicyKind::PeerAuthentication, "default"), strict());
    let destination = workload("a", &["10.0.0.1"]);
    let mut connection = plaintext_to(&destination);
    let denied = denied_by(&policies, &connection);
    assert_eq!(denied.as_deref(), Some("PeerAuthentication foo/default"));
    connection.source = Some(&destination.identity);
    assert_eq!(denied_by(&policies, &connection), None);
}

#[test]
fn a_fail_closed_policy_denies_whoever_comes_to_its_target() {
    let destination = workload("a", &["10.0.0.1"]);
    let connection = Connection {
        source: Some(&destination.identity),
        ..plaintext_to(&destination)
    };
    for (policy, denied) in [
        (closed(Some("foo"), "a"), true),
        (closed(None, "a"), true),
        (closed(Some("foo"), "b"), false),
        (closed(Some("bar"), "a"), false),
    ] {
        let mut policies = Policies::default();
        let key = key(PolicyKind::AuthorizationPolicy, "p");
        policies.insert(key, Policy::FailClosed(policy.clone()));
        let decision = policies.authorize(&connection);
        assert_eq!(matches!(decision, Decision::Deny(_)), denied, "{policy:?}");
    }
}

#[test]
fn a_policy_takes_the_place_of_what_had_its_key() {
    let mut policies = Policies::default();
    let key = key(PolicyKind::PeerAuthentication, "default");
    let destination = workload("a", &["10.0.0.1"]);
    let connection = plaintext_to(&destination);
    policies.insert(key.clone(), Policy::FailClosed(closed(None, "a")));
    let before = policies.clone();
    policies.insert(key.clone(), strict());
    let denied = denied_by(&policies, &connection);
    assert_eq!(denied.as_deref(), Some("PeerAuthentication foo/default"));
    policies.remove(&key);
    assert_eq!(denied_by(&policies, &connection), None);
    let denied = denied_by(&before, &connection);
    assert_eq!(denied.as_deref(), Some("AuthorizationPolicy foo/p"));
}
