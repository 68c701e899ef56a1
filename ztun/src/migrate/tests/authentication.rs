//! `MeshPolicy` and `Policy`.

use serde_json::json;

use super::*;

fn mesh_policy(spec: &str) -> String {
    format!(
        "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: default}}\nspec: {spec}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn mode(migration: &Migration) -> Value {
    let specs = specs(migration);
    specs["PeerAuthentication istio-system/default"]["mtls"]["mode"].clone()
}

#[test]
fn strict_is_the_mode_that_goes_without_saying() {
    for peers in [
        "[{mtls: }]",
        "[{mtls: {}}]",
        "[{mtls: null}]",
        "[{mtls: {mode: }}]",
        "[{mtls: {mode: STRICT}}]",
    ] {
        let migration = run(&mesh_policy(&format!("{{peers: {peers}}}")));
        assert_eq!(mode(&migration), "STRICT", "{peers}");
        assert_nothing_left_out(&migration);
    }
}

#[test]
fn permissive_stays_permissive() {
    let migration = run(&mesh_policy("{peers: [{mtls: {mode: PERMISSIVE}}]}"));
    assert_eq!(mode(&migration), "PERMISSIVE");
    assert_nothing_left_out(&migration);
}

#[test]
fn no_peers_is_disable_and_says_what_a_node_proxy_makes_of_it() {
    for spec in ["", "{}", "{peers: }", "{peers: []}"] {
        let migration = run(&mesh_policy(spec));
        assert_eq!(mode(&migration), "DISABLE", "{spec}");
        assert_listed(&migration, Outcome::Changed, "spec.peers", "PERMISSIVE");
    }
}

#[test]
fn tls_without_a_client_certificate_is_not_opened_to_plaintext() {
    let migration = run(&mesh_policy("{peers: [{mtls: {allowTls: true}}]}"));
    assert_eq!(mode(&migration), "STRICT");
    let field = "spec.peers[0].mtls.allowTls";
    assert_listed(&migration, Outcome::Changed, field, "STRICT now");
}

#[test]
fn what_was_never_in_force_is_not_translated() {
    let other_name = mesh_policy("{peers: [{mtls: {}}]}").replace("default", "other");
    let cases = [
        (other_name, "metadata.name"),
        (
            mesh_policy("{targets: [{name: cart}], peers: [{mtls: {}}]}"),
            "spec.targets",
        ),
        (policy("other", "{peers: [{mtls: {}}]}"), "metadata.name"),
        (
            policy("default", "{targets: [{name: cart}], peers: [{mtls: {}}]}"),
            "spec.targets",
        ),
    ];
    for (yaml, field) in cases {
        let migration = run(&yaml);
        assert_eq!(migration.policies, [], "{yaml}");
        assert_listed(&migration, Outcome::LeftOut, field, "Istio");
    }
}

#[test]
fn a_namespaces_policy_in_the_root_namespace_does_not_become_the_meshs() {
    let yaml = policy("default", "{peers: [{mtls: {}}]}").replace("shop", "istio-system");
    let migration = run(&yaml);
    assert_eq!(migration.policies, []);
    assert_listed(
        &migration,
        Outcome::LeftOut,
        "metadata.namespace",
        "whole mesh",
    );
}

#[test]
fn a_target_becomes_the_selector_of_its_service() {
    let policy = policy("p", "{targets: [{name: cart}], peers: [{mtls: {}}]}");
    let migration = run(&(policy + &service("shop", "cart")));
    assert_eq!(
        specs(&migration)["PeerAuthentication shop/p-cart"],
        json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {"mode": "STRICT"}})
    );
    assert_nothing_left_out(&migration);
}

#[test]
fn a_target_without_its_service_is_left_out() {
    let policy = policy("p", "{targets: [{name: cart}], peers: [{mtls: {}}]}");
    let migration = run(&(policy + &service("elsewhere", "cart")));
    assert_eq!(migration.policies, []);
    let field = "spec.targets[0].name";
    assert_listed(&migration, Outcome::LeftOut, field, "Service shop/cart");
}

#[test]
fn a_services_port_becomes_the_workloads() {
    let ports = |ports| {
        let spec =
            format!("{{targets: [{{name: cart, ports: [{ports}]}}], peers: [{{mtls: {{}}}}]}}");
        run(&(policy("p", &spec) + &service("shop", "cart")))
    };
    for by in ["number: 80", "name: http"] {
        let migration = ports(by);
        assert_eq!(
            specs(&migration)["PeerAuthentication shop/p-cart"],
            json!({
                "selector": {"matchLabels": {"app": "cart"}},
                "portLevelMtls": {"8080": {"mode": "STRICT"}},
            })
        );
        assert_nothing_left_out(&migration);
    }
    let migration = ports("number: 8080");
    assert_eq!(migration.policies, []);
    let field = "spec.targets[0].ports[0]";
    assert_listed(&migration, Outcome::LeftOut, field, "no such port");
}

#[test]
fn a_named_target_port_needs_a_pod_or_what_makes_pods() {
    let spec = "{targets: [{name: cart, ports: [{number: 80}]}], peers: [{mtls: {}}]}";
    let yaml = policy("p", spec) + &service("shop", "cart").replace("8080", "web");
    let migration = run(&yaml);
    assert_eq!(migration.policies, []);
    let field = "spec.targets[0].ports[0]";
    assert_listed(&migration, Outcome::LeftOut, field, "named `web`");
    let pod = "---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}
spec: {containers: [{name: c, ports: [{name: web, containerPort: 9000}]}]}
";
    let migration = run(&(yaml + pod));
    let spec = &specs(&migration)["PeerAuthentication shop/p-cart"];
    assert_eq!(spec["portLevelMtls"], json!({"9000": {"mode": "STRICT"}}));
    assert_nothing_left_out(&migration);
}

#[test]
fn policies_for_one_service_become_one_and_the_stricter_mode_wins() {
    let port =
        "{targets: [{name: cart, ports: [{number: 80}]}], peers: [{mtls: {mode: PERMISSIVE}}]}";
    let strict = "{targets: [{name: cart}], peers: [{mtls: {}}]}";
    let permissive = "{targets: [{name: cart}], peers: [{mtls: {mode: PERMISSIVE}}]}";
    let yaml = policy("a", port) + &policy("b", strict) + &service("shop", "cart");
    let migration = run(&yaml);
    let expected = json!({
        "selector": {"matchLabels": {"app": "cart"}},
        "mtls": {"mode": "STRICT"},
        "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}},
    });
    let specs_of = specs(&migration);
    assert_eq!(
        specs_of,
        BTreeMap::from([(
            "PeerAuthentication shop/a-cart".to_owned(),
            expected.clone()
        )])
    );
    assert_nothing_left_out(&migration);
    let migration = run(&(yaml + &policy("c", permissive)));
    assert_eq!(
        specs(&migration)["PeerAuthentication shop/a-cart"],
        expected
    );
    assert_listed(
        &migration,
        Outcome::Changed,
        "spec.targets[0]",
        "the stricter",
    );
}

#[test]
fn selectors_that_one_workload_can_carry_are_listed() {
    let yaml = policy("a", "{targets: [{name: cart}], peers: [{mtls: {}}]}")
        + &policy(
            "b",
            "{targets: [{name: all}], peers: [{mtls: {mode: PERMISSIVE}}]}",
        )
        + &service("shop", "cart")
        + &service("shop", "all").replace("app: all", "tier: web");
    let migration = run(&yaml);
    assert_eq!(migration.policies.len(), 2);
    assert_listed(&migration, Outcome::Changed, "spec.targets", "the older");
}

#[test]
fn what_is_about_requests_is_left_out() {
    let migration = run(&mesh_policy(
        "{peers: [{mtls: {}}], peerIsOptional: true, origins: [{jwt: {issuer: idp}}], originIsOptional: true, principalBinding: USE_ORIGIN}",
    ));
    assert_eq!(mode(&migration), "STRICT");
    for (field, text) in [
        ("spec.peerIsOptional", "STRICT refuses"),
        ("spec.origins", "JWTs (idp)"),
        ("spec.originIsOptional", "spec.origins"),
        ("spec.principalBinding", "no other at layer 4"),
    ] {
        assert_listed(&migration, Outcome::LeftOut, field, text);
    }
}

#[test]
fn a_field_that_is_not_known_is_listed() {
    let migration = run(&mesh_policy("{peers: [{mtls: {}}], peerz: 1}"));
    let field = "spec.peerz";
    assert_listed(&migration, Outcome::LeftOut, field, "doesn't know");
}

#[test]
fn a_policy_of_today_for_the_same_is_not_overwritten() {
    let today = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
";
    let migration = run(&(policy("default", "{peers: [{mtls: {}}]}") + today));
    let specs = specs(&migration);
    let name = specs.keys().next().unwrap();
    assert!(
        name.starts_with("PeerAuthentication shop/default-"),
        "{name}"
    );
    assert_listed(
        &migration,
        Outcome::Changed,
        "",
        "shop/default is in the input",
    );
}
