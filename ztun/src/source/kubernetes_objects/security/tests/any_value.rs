//! Whatever a document holds, reading it ends in an object or in a rejection that says why.

use proptest::{collection, prelude::*, sample};
use serde_json::{Map, Value, json};

use super::*;

/// Words that policies are made of, so that chance gets beyond the first check.
const WORDS: [&str; 40] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "annotations",
    "istio.io/dry-run",
    "spec",
    "selector",
    "matchLabels",
    "action",
    "rules",
    "from",
    "to",
    "when",
    "source",
    "operation",
    "principals",
    "notPrincipals",
    "namespaces",
    "serviceAccounts",
    "ipBlocks",
    "remoteIpBlocks",
    "ports",
    "methods",
    "key",
    "values",
    "notValues",
    "mtls",
    "mode",
    "portLevelMtls",
    "targetRefs",
    "provider",
    "status",
    "80",
    "items",
    "ALLOW",
    "STRICT",
    "source.ip",
    "destination.port",
];

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => sample::select(&WORDS[..]).prop_map(str::to_owned),
        1 => sample::select(vec!["", "*", "a*b", "spiffe://a/ns/b/sa/c", "10.0.0.0/33", "::", "[", "request.headers["])
            .prop_map(str::to_owned),
        1 => ".{0,6}",
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::vec((words(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn kinds() -> impl Strategy<Value = &'static str> {
    sample::select(vec![
        "AuthorizationPolicy",
        "PeerAuthentication",
        "Pod",
        "Service",
        "Namespace",
        "EndpointSlice",
        "ServiceEntry",
        "WorkloadEntry",
        "Other",
    ])
}

fn check(value: &Value) -> Result<(), TestCaseError> {
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let context = ReadContext {
        trust_domain: &trust_domain,
        root_namespace: "istio-system",
    };
    if let Err(rejection) = read(value, context) {
        prop_assert!(!rejection.problems.is_empty());
        prop_assert!(!rejection.message().is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_document_is_read_or_refused(value in values()) {
        check(&value)?;
    }

    #[test]
    fn any_spec_is_read_or_refused(kind in kinds(), spec in values(), metadata in values()) {
        let group = if kind.ends_with("Policy") || kind.starts_with("Peer") { "security.istio.io/v1" } else { "v1" };
        check(&json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec}))?;
        let named = json!({"name": "p", "namespace": "foo"});
        check(&json!({"apiVersion": group, "kind": kind, "metadata": named, "spec": spec}))?;
    }

    #[test]
    fn any_rule_is_read_or_refused(rule in values(), source in values(), operation in values(), condition in values()) {
        let made = json!({"from": [{"source": source}], "to": [{"operation": operation}], "when": [condition]});
        for rule in [rule, made] {
            check(&json!({
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": "p", "namespace": "foo"},
                "spec": {"rules": [rule]},
            }))?;
        }
    }
}
