//! What policies can't do, or leave each other to do.

use super::*;

#[test]
fn attributes_of_layer_7_are_told_with_their_consequence() {
    let spec = "\n  rules:\n  - {}\n  - to: [{operation: {methods: [GET]}}]";
    let message = "to[0].operation.methods; so this rule of an ALLOW never matches";
    assert_one(
        &policy("p", spec),
        Check::Layer7,
        8,
        "spec.rules[1]",
        message,
    );
}

#[test]
fn a_rule_that_another_of_its_policy_covers_is_told() {
    let namespaces = "{from: [{source: {namespaces: [a]}}]}";
    let port = "{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"80\"]}}]}";
    let both = "{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]}";
    let when = "{when: [{key: source.ip, values: [10.0.0.1]}]}";
    let unseen = "{to: [{operation: {methods: [GET]}}]}";
    for (rules, shadowed, by) in [
        ([namespaces, namespaces], 1, 0),
        ([namespaces, port], 1, 0),
        ([port, namespaces], 0, 1),
        ([both, namespaces], 1, 0),
        ([when, "{}"], 0, 1),
        (["{}", "{}"], 1, 0),
    ] {
        let text = policy("p", &format!("{{rules: [{}]}}", rules.join(", ")));
        let message = format!("has no effect: spec.rules[{by}] matches all that it does");
        assert_one(
            &text,
            Check::Shadowed,
            5,
            &format!("spec.rules[{shadowed}]"),
            &message,
        );
    }
    assert_nothing(&policy("p", &format!("{{rules: [{namespaces}, {when}]}}")));
    let text = policy("p", &format!("{{rules: [{unseen}, {namespaces}]}}"));
    assert!(
        lint_text(&text)
            .iter()
            .all(|finding| finding.check == Check::Layer7)
    );
}

#[test]
fn a_policy_that_another_decides_for_is_told() {
    let deny_all = policy("deny", "{action: DENY, rules: [{}]}");
    let allow_all = policy("allow", "{rules: [{}]}");
    let some = policy(
        "some",
        "{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {namespaces: [a]}}]}]}",
    );
    let message = "has no effect: AuthorizationPolicy foo/deny denies everything";
    assert_one(&(deny_all.clone() + &some), Check::Shadowed, 7, "", message);
    let message = "has no effect: AuthorizationPolicy foo/allow allows everything";
    assert_one(
        &(some.clone() + &allow_all),
        Check::Shadowed,
        2,
        "",
        message,
    );
    let of_mesh = deny_all.replace("foo", "istio-system");
    let message = "AuthorizationPolicy istio-system/deny denies everything";
    assert_one(&(of_mesh + &some), Check::Shadowed, 7, "", message);
    let twice = allow_all.clone() + &allow_all.replace("name: allow", "name: same");
    assert_one(
        &twice,
        Check::Shadowed,
        7,
        "",
        "AuthorizationPolicy foo/allow allows everything",
    );
    for elsewhere in [
        deny_all.replace("foo", "bar"),
        deny_all.replace(
            "{action",
            "{selector: {matchLabels: {app: a, v: b}}, action",
        ),
        deny_all.replace(
            "namespace: foo",
            "namespace: foo, annotations: {istio.io/dry-run: \"true\"}",
        ),
        deny_all.replace("DENY", "AUDIT"),
        deny_all.replace("[{}]", "[{when: [{key: source.ip, values: [10.0.0.1]}]}]"),
    ] {
        assert_nothing(&(elsewhere + &some));
    }
}

#[test]
fn an_audit_without_rules_reports_nothing() {
    let text = policy("p", "{action: AUDIT}");
    assert_one(
        &text,
        Check::NoEffect,
        5,
        "spec.rules",
        "an AUDIT without rules reports nothing",
    );
}

#[test]
fn peer_authentications_for_the_same_workloads_are_told() {
    let selecting = |name, labels| {
        peer_authentication(
            name,
            &format!("{{selector: {{matchLabels: {labels}}}, mtls: {{mode: STRICT}}}}"),
        )
    };
    let whole = |name| peer_authentication(name, "{mtls: {mode: STRICT}}");
    let message = "is not in force where PeerAuthentication foo/a is for the same workloads, which wins by its name";
    assert_one(&(whole("b") + &whole("a")), Check::Tie, 2, "", message);
    let same = selecting("a", "{app: a}") + &selecting("b", "{app: a}");
    assert_one(&same, Check::Tie, 7, "", message);
    let old = whole("b").replace(
        "name: b",
        "name: b, creationTimestamp: 2020-01-01T00:00:00Z",
    );
    assert_one(
        &(whole("a") + &old),
        Check::Tie,
        2,
        "",
        "PeerAuthentication foo/b is for the same workloads, which wins as the older one",
    );
    let pod = POD.replace("{app: a}", "{app: a, v: b}");
    let crossing = pod + &selecting("a", "{app: a}") + &selecting("b", "{v: b}");
    assert_one(&crossing, Check::Tie, 11, "", message);
    assert_nothing(&(selecting("a", "{app: a}") + &selecting("b", "{v: b}") + &whole("c")));
    assert_nothing(&(whole("a") + &whole("a").replace("foo", "bar")));
}
