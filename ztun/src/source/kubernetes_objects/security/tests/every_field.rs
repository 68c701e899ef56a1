//! Every field of both kinds, of every other type and under a wrong name.

use serde_json::{Value, json};

use super::*;
use crate::source::field::FieldPath;

/// With every field that there is, but those that exclude others.
fn complete() -> [Value; 2] {
    let authentication = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "p", "namespace": "foo"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"80": {"mode": "PERMISSIVE"}},
        },
    });
    let source = json!({
        "principals": ["cluster.local/ns/foo/sa/a"], "notPrincipals": ["*"],
        "namespaces": ["foo"], "notNamespaces": ["b*"],
        "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["::1"],
        "remoteIpBlocks": ["10.0.0.0/8"], "notRemoteIpBlocks": ["::1"],
        "requestPrincipals": ["*"], "notRequestPrincipals": ["x"],
        "trustDomains": ["x"], "notTrustDomains": ["x"],
    });
    let accounts = json!({"serviceAccounts": ["a"], "notServiceAccounts": ["foo/b"]});
    let operation = json!({
        "ports": ["80"], "notPorts": ["81"],
        "hosts": ["x"], "notHosts": ["x"],
        "methods": ["GET"], "notMethods": ["PUT"],
        "paths": ["/x"], "notPaths": ["/y"],
    });
    let authorization = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "foo"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "action": "DENY",
            "rules": [{
                "from": [{"source": source}, {"source": accounts}],
                "to": [{"operation": operation}],
                "when": [{"key": "source.ip", "values": ["10.0.0.1"], "notValues": ["10.0.0.2"]}],
            }],
        },
    });
    [authentication, authorization]
}

/// Every place below `value`, as a JSON pointer and as messages write it.
fn places(value: &Value, pointer: &str, path: &FieldPath, found: &mut Vec<(String, FieldPath)>) {
    let mut below = |value, step: &str, path: FieldPath| {
        let pointer = format!("{pointer}/{step}");
        places(value, &pointer, &path, found);
        found.push((pointer, path));
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                below(value, name, path.field(name));
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                below(value, &index.to_string(), path.index(index));
            }
        }
        _ => {}
    }
}

fn places_of_spec(whole: &Value) -> Vec<(String, FieldPath)> {
    let mut found = vec![("/spec".to_owned(), FieldPath::of("spec"))];
    places(&whole["spec"], "/spec", &FieldPath::of("spec"), &mut found);
    found
}

fn read_value(value: &Value) -> Result<Read, Rejection> {
    // JSON is YAML too.
    read_text(&value.to_string())
}

#[test]
fn the_complete_policies_are_taken() {
    for value in complete() {
        assert!(read_value(&value).is_ok(), "{:?}", read_value(&value));
    }
}

#[test]
fn a_field_of_any_other_type_is_refused_with_its_path_and_closes_the_target() {
    let others = [
        json!(7),
        json!(true),
        json!("?"),
        json!([7]),
        json!({"?": 7}),
    ];
    for whole in complete() {
        for (pointer, path) in places_of_spec(&whole) {
            for other in &others {
                let mut wrong = whole.clone();
                let place = wrong.pointer_mut(&pointer).unwrap();
                let same = std::mem::discriminant(place) == std::mem::discriminant(other);
                // A text is as good as another where any is allowed.
                if same && other.is_string() {
                    continue;
                }
                *place = other.clone();
                let Err(rejection) = read_value(&wrong) else {
                    panic!("{path}: {other} was taken");
                };
                let told = rejection.message();
                let here = |at: &FieldPath| at.to_string().starts_with(&path.to_string());
                let about = rejection.problems.iter().filter(|it| here(&it.path));
                assert!(about.clone().count() > 0, "{path}: {other}: {told}");
                assert!(about.clone().all(|it| !it.message.is_empty()), "{told}");
                assert!(rejection.stand_in.is_some(), "{path}: {other}: left open");
            }
        }
    }
}

#[test]
fn a_field_under_a_wrong_name_is_refused_with_what_is_allowed() {
    for whole in complete() {
        for (pointer, path) in places_of_spec(&whole) {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let mut wrong = whole.clone();
            let Some(fields) = wrong.pointer_mut(parent).and_then(Value::as_object_mut) else {
                continue;
            };
            let is_free = ["matchLabels", "portLevelMtls"];
            if is_free.iter().any(|it| parent.ends_with(it)) || parent.is_empty() {
                continue;
            }
            let value = fields.remove(name).unwrap();
            fields.insert(format!("{name}X"), value);
            let Err(rejection) = read_value(&wrong) else {
                panic!("{path}X was taken");
            };
            let told = rejection.message();
            let named = |it: &&crate::source::field::FieldProblem| {
                it.path.to_string() == format!("{path}X")
            };
            let problem = rejection.problems.iter().find(named);
            let problem = problem.unwrap_or_else(|| panic!("{path}X: {told}"));
            let message = &problem.message;
            assert!(message.starts_with("unknown field"), "{path}X: {message}");
            assert!(
                message.contains("expected ") || message.contains('`'),
                "{message}"
            );
        }
    }
}
