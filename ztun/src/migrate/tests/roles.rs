//! `ServiceRole` and `ServiceRoleBinding`.

use serde_json::json;

use super::*;

fn rules(migration: &Migration, policy: &str) -> Value {
    let specs = specs(migration);
    let spec = specs.get(policy);
    spec.unwrap_or_else(|| panic!("{policy}: {specs:#?}"))["rules"].clone()
}

#[test]
fn everybody_is_authenticated_or_not_unless_the_principal_is_asked_for() {
    let migration = run(&grant(CART, r#"{user: "*"}"#));
    assert_eq!(rules(&migration, GRANTED), json!([{}]));
    assert_nothing_left_out(&migration);
    let migration = run(&grant(CART, r#"{properties: {source.principal: "*"}}"#));
    assert_eq!(
        rules(&migration, GRANTED),
        json!([{"from": [{"source": {"principals": ["*"]}}]}])
    );
    assert_nothing_left_out(&migration);
}

#[test]
fn all_parts_of_a_subject_must_match_and_one_of_the_subjects() {
    let subjects = "{user: td/ns/a/sa/b, properties: {source.namespace: a, source.ip: 10.0.0.0/8}}, {namespaces: [c], not_names: [td/ns/c/sa/d], notIps: [10.1.2.3]}";
    let migration = run(&grant(CART, subjects));
    assert_eq!(
        rules(&migration, GRANTED),
        json!([{"from": [
            {"source": {"principals": ["td/ns/a/sa/b"], "namespaces": ["a"], "ipBlocks": ["10.0.0.0/8"]}},
            {"source": {"notPrincipals": ["td/ns/c/sa/d"], "namespaces": ["c"], "notIpBlocks": ["10.1.2.3"]}},
        ]}])
    );
    assert_nothing_left_out(&migration);
}

#[test]
fn a_second_restriction_of_the_same_kind_is_a_condition() {
    let subject = "{user: td/ns/a/sa/b, properties: {source.principal: 'td/ns/a/*'}}";
    let migration = run(&grant(CART, &format!("{subject}, {ALICE}")));
    assert_eq!(
        rules(&migration, GRANTED),
        json!([
            {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/alice"]}}]},
            {
                "from": [{"source": {"principals": ["td/ns/a/sa/b"]}}],
                "when": [{"key": "source.principal", "values": ["td/ns/a/*"]}],
            },
        ])
    );
}

#[test]
fn a_subject_that_cannot_be_told_is_left_out_and_never_widened() {
    for (subject, field) in [
        ("{}", "spec.subjects[0]"),
        ("{user: u, userz: v}", "spec.subjects[0].userz"),
        (
            "{user: u, properties: {service: reviews}}",
            "spec.subjects[0].properties[service]",
        ),
        ("{properties: {source.ip: 10.0.0}}", "spec.subjects[0]"),
    ] {
        let migration = run(&grant(CART, subject));
        assert!(!specs(&migration).contains_key(GRANTED), "{subject}");
        assert_listed(&migration, Outcome::LeftOut, field, "");
        assert_listed(&migration, Outcome::LeftOut, "spec.subjects", "no subject");
    }
}

#[test]
fn a_value_that_would_get_the_whole_policy_refused_goes_with_its_subject() {
    for (subject, text) in [
        ("{user: alice@yahoo.com}", "no workload's identity"),
        ("{user: 'td/ns/*/sa/b'}", "one `*`"),
        ("{user: ''}", "empty"),
        ("{not_names: ['Alice*']}", "no workload's identity"),
        ("{properties: {source.namespace: 'a*c'}}", "one `*`"),
        ("{namespaces: [Shop]}", "no namespace's name"),
        ("{ips: [10.0.0.0/33]}", "CIDR"),
        ("{properties: {'request.headers[]': x}}", "brackets"),
    ] {
        let migration = run(&grant(CART, &format!("{subject}, {ALICE}")));
        let alice =
            json!([{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/alice"]}}]}]);
        assert_eq!(rules(&migration, GRANTED), alice, "{subject}");
        let field = "spec.subjects[0]";
        assert_listed(&migration, Outcome::LeftOut, field, text);
    }
}

#[test]
fn a_value_that_would_get_the_whole_policy_refused_goes_with_its_rule() {
    for (rule, text) in [
        ("{services: ['*'], ports: [0]}", "not a port"),
        ("{services: ['*'], methods: ['']}", "empty"),
    ] {
        let migration = run(&grant(&format!("{rule}, {{services: ['*']}}"), ALICE));
        let rules = rules(&migration, "AuthorizationPolicy shop/bind");
        assert_eq!(rules.as_array().unwrap().len(), 1, "{rule}");
        assert_listed(&migration, Outcome::LeftOut, "spec.rules[0]", text);
    }
}

#[test]
fn a_wildcard_for_services_is_the_namespace_where_it_covers_it_all() {
    for services in ["*", "*.shop.svc.cluster.local", "*.cluster.local"] {
        let migration = run(&grant(&format!("{{services: ['{services}']}}"), ALICE));
        let spec = &specs(&migration)["AuthorizationPolicy shop/bind"];
        assert_eq!(spec.get("selector"), None, "{services}");
        assert_nothing_left_out(&migration);
    }
}

#[test]
fn other_patterns_are_the_services_of_the_input_and_that_is_listed() {
    let yaml = grant("{services: ['car*']}", ALICE)
        + &service("shop", "cars")
        + &service("shop", "stock")
        + &service("other", "cart");
    let migration = run(&yaml);
    let names: Vec<_> = specs(&migration).into_keys().collect();
    assert_eq!(
        names[1..],
        ["AuthorizationPolicy shop/bind-cars", GRANTED].map(str::to_owned)
    );
    let field = "spec.rules[0].services[0]";
    assert_listed(&migration, Outcome::Changed, field, "(cars, cart)");
}

#[test]
fn a_service_that_cannot_be_told_is_left_out() {
    for (services, text) in [
        ("gone.shop.svc.cluster.local", "Service shop/gone"),
        ("cart.other.svc.cluster.local", "another namespace"),
        ("cart", "whole name"),
        ("x*", "matches no Service"),
    ] {
        let migration = run(&grant(&format!("{{services: ['{services}']}}"), ALICE));
        assert_eq!(specs(&migration).len(), 1, "{services}");
        let field = "spec.rules[0].services[0]";
        assert_listed(&migration, Outcome::LeftOut, field, text);
    }
    let headless = grant(CART, ALICE).replace("selector: {app: cart}, ", "");
    let field = "spec.rules[0].services[0]";
    assert_listed(&run(&headless), Outcome::LeftOut, field, "no selector");
}

#[test]
fn ports_and_addresses_stay() {
    let rule = r#"{services: ["cart.shop.svc.cluster.local"], not_ports: [22], constraints: [
        {key: destination.port, values: ["80", "443"]},
        {key: destination.ip, values: [10.0.0.0/8]},
        {key: destination.namespace, values: ["sh*"]}]}"#;
    let migration = run(&grant(rule, r#"{user: "*"}"#));
    assert_eq!(
        rules(&migration, GRANTED),
        json!([{
            "to": [{"operation": {"ports": ["80", "443"], "notPorts": ["22"]}}],
            "when": [{"key": "destination.ip", "values": ["10.0.0.0/8"]}],
        }])
    );
    assert_nothing_left_out(&migration);
}

#[test]
fn every_value_of_a_label_is_a_selector() {
    let rule = r#"{services: ["cart.shop.svc.cluster.local"],
        constraints: [{key: "destination.labels[version]", values: [v1, v2]}]}"#;
    let specs = specs(&run(&grant(rule, ALICE)));
    for version in ["v1", "v2"] {
        assert_eq!(
            specs[&format!("{GRANTED}-{version}")]["selector"],
            json!({"matchLabels": {"app": "cart", "version": version}})
        );
    }
    assert!(!specs.contains_key(GRANTED));
}

#[test]
fn a_restriction_without_an_equivalent_takes_its_rule_with_it() {
    for (constraint, text) in [
        ("{key: destination.user, values: [x]}", "no equivalent"),
        ("{key: destination.name, values: [x]}", "no equivalent"),
        (
            "{key: 'destination.labels[version]', values: ['v*']}",
            "wildcards",
        ),
        (
            "{key: destination.namespace, values: [other]}",
            "never matched",
        ),
        ("{key: destination.port, values: [http]}", "not a port"),
        ("{key: destination.ip, values: [x]}", "CIDR"),
        ("{key: destination.port}", "no values"),
        (
            "{key: destination.port, values: ['80'], not_values: ['81']}",
            "not_values",
        ),
    ] {
        let rule = format!(
            "{{services: ['*'], constraints: [{constraint}]}}, {{services: ['*'], ports: [80]}}"
        );
        let migration = run(&grant(&rule, ALICE));
        let rules = rules(&migration, "AuthorizationPolicy shop/bind");
        assert_eq!(rules.as_array().unwrap().len(), 1, "{constraint}");
        assert_eq!(rules[0]["to"], json!([{"operation": {"ports": ["80"]}}]));
        let field = "spec.rules[0].constraints[0]";
        assert_listed(&migration, Outcome::LeftOut, field, text);
    }
    let migration = run(&grant("{services: ['*'], pathz: [/]}", ALICE));
    assert_eq!(specs(&migration).len(), 1);
    assert_listed(&migration, Outcome::LeftOut, "spec.rules[0].pathz", "");
}

#[test]
fn a_label_that_contradicts_the_selector_selects_nothing() {
    let rule = r#"{services: ["cart.shop.svc.cluster.local"],
        constraints: [{key: "destination.labels[app]", values: [other]}]}"#;
    let migration = run(&grant(rule, ALICE));
    assert_eq!(specs(&migration).len(), 1);
    let field = "spec.rules[0].constraints";
    assert_listed(&migration, Outcome::LeftOut, field, "another value");
}

#[test]
fn a_permissive_binding_is_a_dry_run() {
    let yaml = grant(CART, ALICE).replace("roleRef", "mode: PERMISSIVE, roleRef");
    let name = format!("{GRANTED} (dry run)");
    assert!(specs(&run(&yaml)).contains_key(&name));
}

#[test]
fn a_role_may_stand_in_the_binding_or_be_named_otherwise() {
    let by_name =
        grant(CART, ALICE).replace("roleRef: {kind: ServiceRole, name: role}", "role: role");
    assert!(specs(&run(&by_name)).contains_key(GRANTED));
    let inline = grant(CART, ALICE).replace(
        "roleRef: {kind: ServiceRole, name: role}",
        &format!("actions: [{CART}]"),
    );
    let migration = run(&inline);
    assert!(specs(&migration).contains_key(GRANTED));
    assert_listed(&migration, Outcome::Note, "", "no ServiceRoleBinding");
}

#[test]
fn a_binding_to_no_role_is_listed() {
    let migration = run(&grant(CART, ALICE).replace("name: role}}", "name: other}}"));
    assert_eq!(specs(&migration).len(), 1);
    let field = "spec.roleRef.name";
    assert_listed(&migration, Outcome::LeftOut, field, "shop/other");
    assert_listed(&migration, Outcome::Note, "", "no ServiceRoleBinding");
}

#[test]
fn a_grant_in_the_root_namespace_does_not_become_the_meshs() {
    let migration = run(&grant("{services: ['*']}", ALICE).replace("shop", "istio-system"));
    let names: Vec<_> = specs(&migration).into_keys().collect();
    assert_eq!(names, ["AuthorizationPolicy istio-system/deny-by-default"]);
    let field = "metadata.namespace";
    assert_listed(&migration, Outcome::LeftOut, field, "whole mesh");
}

#[test]
fn names_that_meet_are_told_apart() {
    let binding = grant(
        "{services: ['cart.shop.svc.cluster.local', 'b-cart.shop.svc.cluster.local']}",
        ALICE,
    )
    .replace("name: bind,", "name: a,");
    let second = "---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRoleBinding
metadata: {name: a-b, namespace: shop}
spec: {subjects: [{user: '*'}], roleRef: {kind: ServiceRole, name: role}}
";
    let migration = run(&(binding + second + &service("shop", "b-cart")));
    let names: Vec<_> = specs(&migration).into_keys().collect();
    // a + b-cart and a-b + cart.
    let meeting = names.iter().filter(|name| name.contains("/a-b-cart"));
    assert_eq!(meeting.count(), 2, "{names:?}");
    assert_eq!(migration.policies.len(), 5);
}
