//! `ClusterRbacConfig` and what it means for roles.

use serde_json::json;

use super::*;

const DENY: &str = "AuthorizationPolicy shop/deny-by-default";

/// A config, a grant of the whole namespace `shop`, and services there.
fn with_config(spec: &str) -> Migration {
    let grant = grant(r#"{services: ["*"]}"#, ALICE);
    let (_, rest) = grant.split_at(
        grant
            .find("---\napiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRole")
            .unwrap(),
    );
    run(&(rbac_config(spec) + rest + &service("shop", "stock")))
}

fn names(migration: &Migration) -> Vec<String> {
    specs(migration).into_keys().collect()
}

#[test]
fn on_denies_the_whole_mesh_from_the_root_namespace() {
    let migration = with_config("{mode: 'ON'}");
    assert_eq!(
        names(&migration),
        [
            "AuthorizationPolicy istio-system/deny-by-default",
            "AuthorizationPolicy shop/bind"
        ]
    );
    assert_eq!(
        specs(&migration)["AuthorizationPolicy istio-system/deny-by-default"],
        json!({})
    );
    assert_nothing_left_out(&migration);
}

#[test]
fn off_blocks_nothing_then_and_now() {
    for spec in ["{mode: 'OFF'}", "{}"] {
        let migration = with_config(spec);
        assert_eq!(
            names(&migration),
            ["AuthorizationPolicy shop/bind (dry run)"]
        );
        assert_nothing_left_out(&migration);
    }
}

#[test]
fn without_a_config_the_roles_are_in_force_and_that_is_listed() {
    let yaml = grant(CART, ALICE)
        .replace("ClusterRbacConfig", "Unrelated")
        .replace(
            "apiVersion: rbac.istio.io/v1alpha1\nkind: Unrelated",
            "apiVersion: v1\nkind: Unrelated",
        );
    let migration = run(&yaml);
    assert_eq!(names(&migration), [GRANTED]);
    assert_listed(&migration, Outcome::Changed, "", "no ClusterRbacConfig");
}

#[test]
fn an_included_namespace_is_denied_by_default() {
    let migration = with_config("{mode: ON_WITH_INCLUSION, inclusion: {namespaces: [shop]}}");
    assert_eq!(names(&migration), ["AuthorizationPolicy shop/bind", DENY]);
    assert_eq!(specs(&migration)[DENY], json!({}));
    assert_nothing_left_out(&migration);
}

#[test]
fn a_role_outside_of_the_inclusion_blocks_nothing() {
    let migration = with_config("{mode: ON_WITH_INCLUSION, inclusion: {namespaces: [other]}}");
    assert_eq!(
        names(&migration),
        [
            "AuthorizationPolicy other/deny-by-default",
            "AuthorizationPolicy shop/bind (dry run)"
        ]
    );
}

#[test]
fn an_included_service_is_denied_by_default_and_its_neighbour_stays_open() {
    let migration = with_config(
        "{mode: ON_WITH_INCLUSION, inclusion: {services: [cart.shop.svc.cluster.local]}}",
    );
    // A policy for the namespace would have closed `stock`.
    assert_eq!(
        names(&migration),
        [GRANTED, "AuthorizationPolicy shop/deny-by-default-cart"]
    );
    let cart = json!({"matchLabels": {"app": "cart"}});
    for spec in specs(&migration).values() {
        assert_eq!(spec["selector"], cart);
    }
    assert_nothing_left_out(&migration);
}

#[test]
fn an_included_service_that_cannot_be_found_is_listed() {
    for (host, text) in [
        ("gone.shop.svc.cluster.local", "Service shop/gone"),
        ("cart", "whole name"),
        ("cart.istio-system.svc.cluster.local", "root namespace"),
    ] {
        let migration = run(&rbac_config(&format!(
            "{{mode: ON_WITH_INCLUSION, inclusion: {{services: [{host}]}}}}"
        )));
        assert_eq!(migration.policies, []);
        let entries = migration.report.entries();
        assert_eq!(entries.len(), 1, "{entries:#?}");
        assert_eq!(entries[0].outcome, Outcome::LeftOut);
        assert!(entries[0].message.contains(text), "{entries:#?}");
    }
}

#[test]
fn what_is_excluded_allows_everybody_beside_the_policy_that_allows_nobody() {
    let migration = with_config(
        "{mode: ON_WITH_EXCLUSION, exclusion: {namespaces: [open], services: [stock.shop.svc.cluster.local]}}",
    );
    let specs = specs(&migration);
    assert_eq!(specs.len(), 4, "{specs:#?}");
    assert_eq!(
        specs["AuthorizationPolicy istio-system/deny-by-default"],
        json!({})
    );
    assert_eq!(
        specs["AuthorizationPolicy open/rbac-excluded"],
        json!({"action": "ALLOW", "rules": [{}]})
    );
    assert_eq!(
        specs["AuthorizationPolicy shop/rbac-excluded-stock"],
        json!({
            "selector": {"matchLabels": {"app": "stock"}},
            "action": "ALLOW",
            "rules": [{}],
        })
    );
    assert!(specs.contains_key("AuthorizationPolicy shop/bind"));
    assert_nothing_left_out(&migration);
}

#[test]
fn a_role_within_the_exclusion_blocks_nothing() {
    let migration = with_config("{mode: ON_WITH_EXCLUSION, exclusion: {namespaces: [shop]}}");
    let names = names(&migration);
    assert!(
        names.contains(&"AuthorizationPolicy shop/bind (dry run)".to_owned()),
        "{names:?}"
    );
}

#[test]
fn the_root_namespace_is_neither_included_nor_excluded_by_a_policy_for_the_whole_mesh() {
    for (spec, field, policies) in [
        (
            "{mode: ON_WITH_INCLUSION, inclusion: {namespaces: [istio-system]}}",
            "spec.inclusion.namespaces",
            &[][..],
        ),
        (
            "{mode: ON_WITH_EXCLUSION, exclusion: {namespaces: [istio-system]}}",
            "spec.exclusion.namespaces",
            &["AuthorizationPolicy istio-system/deny-by-default"][..],
        ),
    ] {
        let migration = run(&rbac_config(spec));
        assert_eq!(names(&migration), policies);
        assert_listed(&migration, Outcome::LeftOut, field, "root namespace");
    }
}

#[test]
fn a_permissive_config_makes_everything_a_dry_run() {
    for field in ["enforcement_mode", "enforcementMode"] {
        let migration = with_config(&format!("{{mode: 'ON', {field}: PERMISSIVE}}"));
        assert_eq!(
            names(&migration),
            [
                "AuthorizationPolicy istio-system/deny-by-default (dry run)",
                "AuthorizationPolicy shop/bind (dry run)"
            ]
        );
    }
}

#[test]
fn only_the_config_that_istio_read_counts() {
    let on = rbac_config("{mode: 'ON'}");
    let older = on.replace("ClusterRbacConfig", "RbacConfig");
    let other = rbac_config("{mode: 'OFF'}").replace("name: default", "name: other");
    let migration = run(&(older.clone() + &on.replace("'ON'", "'OFF'") + &other));
    assert_eq!(migration.policies, []);
    assert_listed(&migration, Outcome::LeftOut, "kind", "ClusterRbacConfig");
    assert_listed(&migration, Outcome::LeftOut, "metadata.name", "`default`");
    let migration = run(&older);
    assert_eq!(
        names(&migration),
        ["AuthorizationPolicy istio-system/deny-by-default"]
    );
}
