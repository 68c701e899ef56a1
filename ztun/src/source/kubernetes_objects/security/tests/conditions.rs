//! `when` of a rule.

use super::*;
use crate::mesh::policy::authorization::{Condition, ServiceAccount, StringMatch, Values};

fn condition(text: &str) -> String {
    object(
        "AuthorizationPolicy",
        &format!("spec: {{rules: [{{when: [{text}]}}]}}"),
    )
}

#[test]
fn every_key_of_layer_4_is_kept_with_its_values() {
    let policy = policy(
        "
spec:
  rules:
  - when:
    - {key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.1]}
    - {key: remote.ip, values: [\"fd00::/8\"]}
    - {key: destination.ip, notValues: [192.0.2.1]}
    - {key: source.namespace, values: [a, \"b*\"], notValues: []}
    - {key: source.principal, notValues: [\"*\"]}
    - {key: source.serviceAccount, values: [own, other/theirs]}
    - {key: destination.port, values: [\"80\"], notValues: [\"443\"]}
",
    );
    let block = |text: &str| text.parse().unwrap();
    let account = |namespace: &str, name: &str| ServiceAccount {
        namespace: namespace.into(),
        name: name.into(),
    };
    let expected = [
        Condition::SourceIp(Values {
            values: vec![block("10.0.0.0/8")],
            not_values: vec![block("10.1.0.1/32")],
        }),
        Condition::RemoteIp(Values {
            values: vec![block("fd00::/8")],
            not_values: vec![],
        }),
        Condition::DestinationIp(Values {
            values: vec![],
            not_values: vec![block("192.0.2.1/32")],
        }),
        Condition::SourceNamespace(Values {
            values: vec![StringMatch::from("a"), StringMatch::from("b*")],
            not_values: vec![],
        }),
        Condition::SourcePrincipal(Values {
            values: vec![],
            not_values: vec![StringMatch::Presence],
        }),
        Condition::SourceServiceAccount(Values {
            values: vec![account("foo", "own"), account("other", "theirs")],
            not_values: vec![],
        }),
        Condition::DestinationPort(Values {
            values: vec![80],
            not_values: vec![443],
        }),
    ];
    assert_eq!(policy.rules[0].when, expected);
    assert!(policy.rules[0].layer7.is_empty());
}

#[test]
fn keys_of_layer_7_are_recorded_and_nothing_of_their_values() {
    for key in [
        "connection.sni",
        "request.headers[User-Agent]",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[iss]",
        "request.auth.claims[a][b]",
        "source.trustDomain",
        "experimental.envoy.filters.network.mysql_proxy[db.table]",
    ] {
        let text = format!("spec: {{rules: [{{when: [{{key: \"{key}\", values: [a]}}]}}]}}");
        let rule = &policy(&text).rules[0];
        assert_eq!(rule.layer7, [format!("when[0] ({key})").into()]);
        assert!(rule.when.is_empty(), "{key}");
    }
}

#[test]
fn conditions_are_refused_in_whatever_way_they_are_wrong() {
    let cases = r#"
        x => [0] => expected an object with key, values or notValues, found text
        null => [0] => found nothing
        {} => [0] => `key` is missing
        {values: [a]} => [0] => `key` is missing
        {key: "", values: [a]} => [0].key => must not be empty
        {key: [source.ip], values: [a]} => [0].key => expected text, found a list
        {key: source.ip} => [0] => `values` or `notValues` must name at least one value
        {key: source.ip, values: [], notValues: []} => [0] => must name at least one value
        {key: source.ip, values: } => [0] => must name at least one value
        {key: connection.sni, values: []} => [0] => must name at least one value
        {key: source.ip, values: [10.0.0.1], value: [a]} => [0].value => write `values`
        {key: source.ip, values: [10.0.0.1], not_values: [a]} => [0].not_values => write `notValues`
        {key: source.ip, values: 10.0.0.1} => [0].values => expected a list, found text: write ["10.0.0.1"]
        {key: source.ip, values: {a: b}} => [0].values => start it with `- `
        {key: source.ip, notValues: [""]} => [0].notValues[0] => must not be empty
        {key: source.ip, values: [x]} => [0].values[0] => is not an IP address or block
        {key: remote.ip, values: [10.0.0.0/99]} => [0].values[0] => is not an IP address or block
        {key: destination.ip, notValues: ["*"]} => [0].notValues[0] => is not an IP address or block
        {key: source.namespace, values: [Foo]} => [0].values[0] => is no namespace's name
        {key: source.principal, values: [spiffe://td/ns/a/sa/b]} => [0].values[0] => without `spiffe://`: `td/ns/a/sa/b`
        {key: source.serviceAccount, values: [a/b/c]} => [0].values[0] => expected NAME or NAMESPACE/NAME
        {key: destination.port, values: ["80", "0"]} => [0].values[1] => from 1 to 65535
        {key: destination.port, values: [80]} => [0].values[0] => put it in quotes: "80"
        {key: connection.sni, values: [1]} => [0].values[0] => put it in quotes
        {key: source.port, values: ["80"]} => [0].key => `source.port` is not an attribute, expected source.ip, remote.ip
        {key: Source.IP, values: [10.0.0.1]} => [0].key => is not an attribute
        {key: source.user, values: [a]} => [0].key => is not an attribute
        {key: request.headers, values: [a]} => [0].key => lacks a name in brackets, such as `request.headers[x]`
        {key: "request.headers[]", values: [a]} => [0].key => lacks a name in brackets
        {key: request.auth.claims, values: [a]} => [0].key => such as `request.auth.claims[x]`
        {key: destination.namespace, values: [a]} => [0].key => a policy is for its own namespace
        {key: "destination.labels[app]", values: [a]} => [0].key => use `spec.selector`
        {key: destination.name, values: [a]} => [0].key => use `spec.selector`
        {key: source.ip, values: [10.0.0.1]}, {key: x, values: [a]} => [1].key => is not an attribute
    "#;
    assert_wrong(cases, condition, "spec.rules[0].when");
    let whole = |text: &str| {
        object(
            "AuthorizationPolicy",
            &format!("spec: {{rules: [{{when: {text}}}]}}"),
        )
    };
    let cases = r"
        {key: source.ip, values: [10.0.0.1]} => - => start it with `- `
        source.ip => - => expected a list, found text
    ";
    assert_wrong(cases, whole, "spec.rules[0].when");
}
