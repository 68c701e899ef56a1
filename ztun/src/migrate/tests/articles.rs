//! The documents of the scenarios, whole.

use serde_json::json;

use super::*;

const ARTICLES: [(&str, &str); 5] = [
    (
        "mesh-policy.yaml",
        include_str!("../../../../tests/scenarios/migrate/mesh-policy.yaml"),
    ),
    (
        "policies.yaml",
        include_str!("../../../../tests/scenarios/migrate/policies.yaml"),
    ),
    (
        "destination-rules.yaml",
        include_str!("../../../../tests/scenarios/migrate/destination-rules.yaml"),
    ),
    (
        "rbac.yaml",
        include_str!("../../../../tests/scenarios/migrate/rbac.yaml"),
    ),
    (
        "services.yaml",
        include_str!("../../../../tests/scenarios/migrate/services.yaml"),
    ),
];

fn input<'a>(files: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Input {
    let mut input = Input::default();
    for (file, text) in files {
        input.read(file, Format::Yaml, text);
    }
    assert_eq!(input.problems(), []);
    input
}

#[test]
fn every_article_becomes_policies_of_today() {
    let migration = migrate(&input(ARTICLES.iter()), &settings(Layer7::Keep));
    let app = |app| json!({"matchLabels": {"app": app}});
    let expected = [
        (
            "PeerAuthentication istio-system/default",
            json!({"mtls": {"mode": "STRICT"}}),
        ),
        (
            "PeerAuthentication foo/default",
            json!({"mtls": {"mode": "STRICT"}}),
        ),
        (
            "PeerAuthentication foo/jwt-example-httpbin",
            json!({"selector": app("httpbin"), "mtls": {"mode": "STRICT"}}),
        ),
        (
            "PeerAuthentication bar/httpbin-permissive-httpbin",
            json!({"selector": app("httpbin"), "portLevelMtls": {"80": {"mode": "PERMISSIVE"}}}),
        ),
        ("AuthorizationPolicy with-istio/deny-by-default", json!({})),
        (
            "AuthorizationPolicy with-istio/test-app-test-app-chart-couchdb",
            json!({
                "selector": app("couchdb"),
                "action": "ALLOW",
                "rules": [{
                    "from": [{"source": {"principals":
                        ["cluster.local/ns/with-istio/sa/test-app-test-app-chart"]}}],
                    "to": [{"operation": {"methods": ["GET"]}}],
                }],
            }),
        ),
    ];
    let expected = expected.map(|(name, spec)| (name.to_owned(), spec));
    assert_eq!(specs(&migration), BTreeMap::from(expected));
}

#[test]
fn the_order_of_the_files_makes_no_difference() {
    let forwards = migrate(&input(ARTICLES.iter()), &settings(Layer7::Keep));
    let backwards = migrate(&input(ARTICLES.iter().rev()), &settings(Layer7::Keep));
    assert_eq!(forwards, backwards);
}

#[test]
fn every_policy_names_the_objects_that_it_comes_from() {
    let migration = migrate(&input(ARTICLES.iter()), &settings(Layer7::Keep));
    let last = migration.policies.last().unwrap();
    assert_eq!(
        last.policy.metadata().annotations["migrated-from"],
        "ServiceRoleBinding with-istio/test-app-test-app-chart, ServiceRole with-istio/couchdb-reader"
    );
    let from: Vec<_> = last.from.iter().map(ToString::to_string).collect();
    assert_eq!(
        from,
        [
            "rbac.yaml:19: ServiceRoleBinding with-istio/test-app-test-app-chart",
            "rbac.yaml:9: ServiceRole with-istio/couchdb-reader"
        ]
    );
}
