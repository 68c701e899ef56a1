//! `from` and `to` of a rule.

use super::*;
use crate::mesh::policy::authorization::{Operation, ServiceAccount, Source, StringMatch};

fn rule(text: &str) -> String {
    object("AuthorizationPolicy", &format!("spec: {{rules: [{text}]}}"))
}

fn source_of(fields: &str) -> String {
    rule(&format!("{{from: [{{source: {fields}}}]}}"))
}

fn operation_of(fields: &str) -> String {
    rule(&format!("{{to: [{{operation: {fields}}}]}}"))
}

fn account(namespace: &str, name: &str) -> ServiceAccount {
    ServiceAccount {
        namespace: namespace.into(),
        name: name.into(),
    }
}

#[test]
fn every_field_of_layer_4_is_kept() {
    let policy = policy(
        "
spec:
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/a/sa/b, \"cluster.local/*\", \"*/sa/b\", \"*\"]
        notPrincipals: [td/ns/x/sa/y]
        namespaces: [a, \"b*\"]
        notNamespaces: [\"*c\"]
        ipBlocks: [10.1.2.3, 10.1.2.3/16, \"fd00::1\", \"fd00::/64\", \"::ffff:10.0.0.0/104\"]
        notIpBlocks: [0.0.0.0/0]
        remoteIpBlocks: [192.0.2.1]
        notRemoteIpBlocks: [\"::/0\"]
    - source:
        serviceAccounts: [own, other/theirs]
        notServiceAccounts: [x.y]
    to:
    - operation:
        ports: [\"1\", \"65535\"]
        notPorts: [\"80\"]
",
    );
    let [rule] = &policy.rules[..] else {
        panic!("{policy:?}");
    };
    let matches = |texts: &[&str]| texts.iter().map(|text| StringMatch::from(*text)).collect();
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let first = Source {
        principals: matches(&["cluster.local/ns/a/sa/b", "cluster.local/*", "*/sa/b", "*"]),
        not_principals: matches(&["td/ns/x/sa/y"]),
        namespaces: matches(&["a", "b*"]),
        not_namespaces: matches(&["*c"]),
        ip_blocks: blocks(&[
            "10.1.2.3/32",
            "10.1.0.0/16",
            "fd00::1/128",
            "fd00::/64",
            "10.0.0.0/8",
        ]),
        not_ip_blocks: blocks(&["0.0.0.0/0"]),
        remote_ip_blocks: blocks(&["192.0.2.1/32"]),
        not_remote_ip_blocks: blocks(&["::/0"]),
        ..Source::default()
    };
    let second = Source {
        service_accounts: vec![account("foo", "own"), account("other", "theirs")],
        not_service_accounts: vec![account("foo", "x.y")],
        ..Source::default()
    };
    assert_eq!(rule.from, [first, second]);
    let operation = Operation {
        ports: vec![1, 65535],
        not_ports: vec![80],
    };
    assert_eq!(rule.to, [operation]);
    assert!(rule.when.is_empty() && rule.layer7.is_empty());
}

#[test]
fn every_field_of_layer_7_is_recorded_and_nothing_of_its_values() {
    for (text, layer7) in [
        (
            "{from: [{source: {requestPrincipals: [\"*\"]}}]}",
            "from[0].source.requestPrincipals",
        ),
        (
            "{from: [{source: {notRequestPrincipals: [a]}}]}",
            "from[0].source.notRequestPrincipals",
        ),
        (
            "{from: [{source: {trustDomains: [a]}}]}",
            "from[0].source.trustDomains",
        ),
        (
            "{from: [{source: {notTrustDomains: [a]}}]}",
            "from[0].source.notTrustDomains",
        ),
        ("{to: [{operation: {hosts: [a]}}]}", "to[0].operation.hosts"),
        (
            "{to: [{operation: {notHosts: [a]}}]}",
            "to[0].operation.notHosts",
        ),
        (
            "{to: [{operation: {methods: [GET]}}]}",
            "to[0].operation.methods",
        ),
        (
            "{to: [{operation: {notMethods: [GET]}}]}",
            "to[0].operation.notMethods",
        ),
        (
            "{to: [{operation: {paths: [/a]}}]}",
            "to[0].operation.paths",
        ),
        (
            "{to: [{operation: {notPaths: [/a]}}]}",
            "to[0].operation.notPaths",
        ),
    ] {
        let policy = policy(&format!("spec: {{rules: [{text}]}}"));
        let rule = &policy.rules[0];
        assert_eq!(rule.layer7, [layer7.into()], "{text}");
        assert!(rule.from.iter().all(|source| *source == Source::default()));
        assert!(
            rule.to
                .iter()
                .all(|operation| *operation == Operation::default())
        );
    }
}

#[test]
fn a_rule_that_is_not_made_as_rules_are_is_refused() {
    let cases = r#"
        {source: {}} => .source => expected from, to or when
        {form: []} => .form => unknown field
        {From: []} => .From => write `from`
        {from: {source: {namespaces: [a]}}} => .from => expected a list, found an object: start it with `- `
        {from: []} => .from => an empty list restricts nothing: name a `source`, or leave `from` out
        {from: [{}]} => .from[0] => `source` is missing
        {from: [null]} => .from[0] => expected an object with source, found nothing
        {from: [{source: }]} => .from[0] => `source` is missing
        {from: [{source: {}}]} => .from[0].source => is empty and restricts nothing
        {from: [{source: []}]} => .from[0].source => found a list
        {from: [{sources: {}, source: {namespaces: [a]}}]} => .from[0].sources => write `source`
        {from: [{principals: [a], source: {namespaces: [a]}}]} => .from[0].principals => only `source` may be here, and fields within it
        {from: [{source: {namespaces: [a]}}, {source: {namespace: [a]}}]} => .from[1].source.namespace => write `namespaces`
        {to: []} => .to => name a `operation`, or leave `to` out
        {to: [{}]} => .to[0] => `operation` is missing
        {to: [{operation: {}}]} => .to[0].operation => is empty and restricts nothing
        {to: [{ports: ["80"], operation: {ports: ["80"]}}]} => .to[0].ports => only `operation` may be here
        {to: {operation: {ports: ["80"]}}} => .to => start it with `- `
    "#;
    assert_wrong(cases, rule, "spec.rules[0]");
}

#[test]
fn every_field_of_a_source_is_refused_in_whatever_way_it_is_wrong() {
    let lists = [
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        "trustDomains",
        "notTrustDomains",
    ];
    for field in lists {
        not_a_list_of_texts(field, source_of, "spec.rules[0].from[0].source.");
    }
}

#[test]
fn every_field_of_an_operation_is_refused_in_whatever_way_it_is_wrong() {
    let lists = [
        "hosts",
        "notHosts",
        "ports",
        "notPorts",
        "methods",
        "notMethods",
        "paths",
        "notPaths",
    ];
    for field in lists {
        not_a_list_of_texts(field, operation_of, "spec.rules[0].to[0].operation.");
    }
    for field in ["ports", "notPorts"] {
        let port = |port: &str| operation_of(&format!("{{{field}: [{port}]}}"));
        let cases = r#"
            "0" => [0] => `0` is not a port, expected a number from 1 to 65535
            "70000" => [0] => from 1 to 65535
            "-1" => [0] => from 1 to 65535
            "+80" => [0] => from 1 to 65535
            " 80" => [0] => from 1 to 65535
            http => [0] => names and ranges are not possible
            8000-9000 => [0] => names and ranges are not possible
            "*" => [0] => names and ranges are not possible
            80 => [0] => put it in quotes: "80"
            80.5 => [0] => put it in quotes
            "80", http => [1] => is not a port
        "#;
        assert_wrong(
            cases,
            port,
            &format!("spec.rules[0].to[0].operation.{field}"),
        );
    }
}

#[test]
fn principals_that_nobody_has_are_refused() {
    for field in ["principals", "notPrincipals"] {
        let principal = |text: &str| source_of(&format!("{{{field}: [{text}]}}"));
        let cases = r#"
            spiffe://cluster.local/ns/a/sa/b => [0] => written without `spiffe://`: `cluster.local/ns/a/sa/b`
            "spiffe://cluster.local/*" => [0] => written without `spiffe://`
            admin => [0] => expected TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT
            a/b => [0] => is nobody's principal
            cluster.local/ns/a => [0] => is nobody's principal
            cluster.local/ns/a/sa/ => [0] => is nobody's principal
            cluster.local/sa/b/ns/a => [0] => is nobody's principal
            cluster.local/ns/A/sa/b => [0] => is nobody's principal
            /ns/a/sa/b => [0] => is nobody's principal
            system:serviceaccount:a:b => [0] => is nobody's principal
            "cluster.local/ns/*/sa/b" => [0] => one `*` may stand, at the start or at the end
            "*/ns/a/*" => [0] => one `*` may stand
            "**" => [0] => one `*` may stand
            "*/sa/B" => [0] => matches no principal
            "cluster.local/ns/a b*" => [0] => matches no principal
        "#;
        assert_wrong(
            cases,
            principal,
            &format!("spec.rules[0].from[0].source.{field}"),
        );
    }
}

#[test]
fn namespaces_that_cannot_be_are_refused() {
    for field in ["namespaces", "notNamespaces"] {
        let namespace = |text: &str| source_of(&format!("{{{field}: [{text}]}}"));
        let cases = r#"
            Foo => [0] => `Foo` is no namespace's name
            foo/bar => [0] => is no namespace's name
            foo_bar => [0] => is no namespace's name
            "-foo" => [0] => is no namespace's name
            "foo/*" => [0] => is no namespace's name
            "f*o" => [0] => one `*` may stand
            a, "*b*" => [1] => one `*` may stand
        "#;
        assert_wrong(
            cases,
            namespace,
            &format!("spec.rules[0].from[0].source.{field}"),
        );
    }
}

#[test]
fn service_accounts_that_cannot_be_are_refused() {
    for field in ["serviceAccounts", "notServiceAccounts"] {
        let account = |text: &str| source_of(&format!("{{{field}: [{text}]}}"));
        let cases = r#"
            a/b/c => [0] => expected NAME or NAMESPACE/NAME
            a/ => [0] => is not a service account
            /b => [0] => is not a service account
            a/B => [0] => is not a service account
            "a/*" => [0] => service accounts have no patterns
            "*" => [0] => service accounts have no patterns
            cluster.local/ns/a/sa/b => [0] => write `a/b`
            spiffe://cluster.local/ns/a/sa/b => [0] => write `a/b`
            system:serviceaccount:a:b => [0] => is not a service account
        "#;
        assert_wrong(
            cases,
            account,
            &format!("spec.rules[0].from[0].source.{field}"),
        );
    }
    let cases = r#"
        {serviceAccounts: [a], principals: ["*"]} => serviceAccounts => can't stand beside principals or namespaces
        {serviceAccounts: [a], notNamespaces: [b]} => serviceAccounts => can't stand beside
        {notServiceAccounts: [a], namespaces: [b]} => notServiceAccounts => can't stand beside
    "#;
    assert_wrong(cases, source_of, "spec.rules[0].from[0].source.");
}

#[test]
fn blocks_that_are_none_are_refused() {
    for field in [
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ] {
        let block = |text: &str| source_of(&format!("{{{field}: [{text}]}}"));
        let cases = r#"
            10.0.0.0/33 => [0] => `10.0.0.0/33` is not an IP address or block, expected such as 10.1.2.3
            "fd00::/129" => [0] => is not an IP address or block
            10.0.0/8 => [0] => is not an IP address or block
            10.0.0.0/ => [0] => is not an IP address or block
            10.0.0.0/255.0.0.0 => [0] => is not an IP address or block
            10.0.0.1-10.0.0.9 => [0] => is not an IP address or block
            "10.0.0.*" => [0] => is not an IP address or block
            "*" => [0] => is not an IP address or block
            localhost => [0] => is not an IP address or block
            256.0.0.1 => [0] => is not an IP address or block
            "fe80::1%eth0" => [0] => is not an IP address or block
            "10.0.0.1:80" => [0] => is not an IP address or block
            10.1 => [0] => put it in quotes
            10.0.0.1, x => [1] => `x` is not
        "#;
        assert_wrong(
            cases,
            block,
            &format!("spec.rules[0].from[0].source.{field}"),
        );
    }
}

fn not_a_list_of_texts(field: &str, object: fn(&str) -> String, prefix: &str) {
    let of = |value: &str| object(&format!("{{{field}: {value}}}"));
    let cases = r#"
        a => - => expected a list, found text: write ["a"]
        1 => - => expected a list, found a number
        true => - => expected a list, found true or false
        {a: b} => - => start it with `- `
        [] => - => an empty list restricts nothing
        [""] => [0] => must not be empty
        [null] => [0] => expected text, found nothing
        [1] => [0] => put it in quotes: "1"
        [true] => [0] => put it in quotes: "true"
        [[a]] => [0] => expected text, found a list
        [{a: b}] => [0] => expected text, found an object
    "#;
    assert_wrong(cases, of, &format!("{prefix}{field}"));
}
