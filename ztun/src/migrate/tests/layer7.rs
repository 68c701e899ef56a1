//! What layer 4 doesn't see: kept and explained, or dropped and listed.

use serde_json::json;

use super::*;

const GET: &str = r#"{services: ["cart.shop.svc.cluster.local"], methods: [GET], paths: [/v1/*]}"#;
const GET_ON_80: &str =
    r#"{services: ["cart.shop.svc.cluster.local"], methods: [GET], ports: [80]}"#;
const WITH_HEADER: &str = r#"{services: ["cart.shop.svc.cluster.local"], constraints: [{key: "request.headers[x-token]", values: [abc]}]}"#;

fn rules(migration: &Migration) -> Value {
    specs(migration)[GRANTED]["rules"].clone()
}

#[test]
fn methods_and_paths_stay_with_the_edit_that_layer_4_needs() {
    let migration = run(&grant(GET, ALICE));
    let operation = json!([{"operation": {"methods": ["GET"], "paths": ["/v1/*"]}}]);
    assert_eq!(rules(&migration)[0]["to"], operation);
    // An empty operation would be invalid: all of `to` goes.
    let text = "remove spec.rules[0].to (methods, paths), or";
    assert_listed(&migration, Outcome::Changed, "spec.rules[0]", text);
    let migration = run(&grant(GET_ON_80, ALICE));
    let text = "remove spec.rules[0].to[0].operation.methods, or";
    assert_listed(&migration, Outcome::Changed, "spec.rules[0]", text);
}

#[test]
fn the_edit_is_for_the_rule_as_it_is_numbered_in_the_policy() {
    let migration = run(&grant(&format!("{CART}, {GET}"), ALICE));
    let text = "remove spec.rules[1].to ";
    assert_listed(&migration, Outcome::Changed, "spec.rules[1]", text);
}

#[test]
fn no_edit_is_proposed_that_would_let_everybody_in() {
    for (rule, subject) in [
        (CART, "{group: admins}"),
        (CART, "{properties: {'request.auth.claims[iss]': idp}}"),
        (WITH_HEADER, "{user: '*'}"),
    ] {
        let migration = run(&grant(rule, subject));
        let text = "say by principals who may get in";
        assert_listed(&migration, Outcome::Changed, "spec.rules[0]", text);
        let entries = migration.report.entries();
        assert!(
            entries
                .iter()
                .all(|entry| !entry.message.contains("remove")),
            "{entries:#?}"
        );
    }
}

#[test]
fn groups_and_claims_stay_as_conditions() {
    let subject = "{group: admins, properties: {'request.auth.claims[iss]': idp}}";
    let migration = run(&grant(CART, subject));
    assert_eq!(
        rules(&migration),
        json!([{"when": [
            {"key": "request.auth.claims[groups]", "values": ["admins"]},
            {"key": "request.auth.claims[iss]", "values": ["idp"]},
        ]}])
    );
}

#[test]
fn a_wildcard_for_methods_and_paths_is_no_restriction() {
    let rule = r#"{services: ["cart.shop.svc.cluster.local"], methods: ["*"], paths: ["*"]}"#;
    let migration = run(&grant(rule, ALICE));
    assert_eq!(rules(&migration)[0].get("to"), None);
    assert_nothing_left_out(&migration);
    for field in ["spec.rules[0].methods", "spec.rules[0].paths"] {
        assert_listed(&migration, Outcome::Note, field, "`*`");
    }
}

#[test]
fn for_layer_4_what_is_dropped_is_listed() {
    let migration = run_with(Layer7::Drop, &grant(GET_ON_80, ALICE));
    assert_eq!(
        rules(&migration)[0]["to"],
        json!([{"operation": {"ports": ["80"]}}])
    );
    let field = "spec.rules[0].methods";
    let text = "now allows more than before: every method, not only GET";
    assert_listed(&migration, Outcome::Changed, field, text);
    let migration = run_with(Layer7::Drop, &grant(WITH_HEADER, ALICE));
    assert_eq!(rules(&migration)[0].get("when"), None);
    let field = "spec.rules[0].constraints";
    assert_listed(&migration, Outcome::Changed, field, "not only abc");
}

#[test]
fn for_layer_4_nobody_becomes_everybody() {
    for subject in [
        "{group: admins}",
        "{not_groups: [guests]}",
        "{user: '*', properties: {'request.headers[x]': y}}",
        "{properties: {request.auth.principal: idp/alice}}",
    ] {
        let migration = run_with(Layer7::Drop, &grant(CART, subject));
        assert!(!specs(&migration).contains_key(GRANTED), "{subject}");
        let field = "spec.subjects[0]";
        assert_listed(&migration, Outcome::LeftOut, field, "would be everybody");
    }
    let subject = "{user: td/ns/a/sa/b, group: admins}";
    let migration = run_with(Layer7::Drop, &grant(CART, subject));
    assert_eq!(
        rules(&migration),
        json!([{"from": [{"source": {"principals": ["td/ns/a/sa/b"]}}]}])
    );
    let field = "spec.subjects[0]";
    assert_listed(&migration, Outcome::Changed, field, "now allows more");
}

#[test]
fn what_several_bindings_use_is_listed_once() {
    let second = "---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRoleBinding
metadata: {name: second, namespace: shop}
spec: {subjects: [{user: '*'}], roleRef: {kind: ServiceRole, name: role}}
";
    let migration = run_with(Layer7::Drop, &(grant(GET_ON_80, ALICE) + second));
    assert_eq!(migration.policies.len(), 3);
    let field = "spec.rules[0].methods";
    assert_listed(&migration, Outcome::Changed, field, "now allows more");
}
