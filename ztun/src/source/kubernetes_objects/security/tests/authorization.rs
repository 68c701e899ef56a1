//! An `AuthorizationPolicy` around its rules.

use std::collections::BTreeMap;

use super::*;
use crate::{
    mesh::policy::{
        Selector,
        authorization::{Action, Rule},
    },
    source::kubernetes_objects::security::authorization::unenforceable,
};

fn whole(rest: &str) -> String {
    object("AuthorizationPolicy", rest)
}

fn spec(text: &str) -> String {
    whole(&format!("spec: {text}"))
}

#[test]
fn no_rules_match_nothing_and_an_empty_rule_everything() {
    let everything = [Rule::default()];
    for (rest, action, rules) in [
        ("", Action::Allow, &[][..]),
        ("spec:", Action::Allow, &[]),
        ("spec: {}", Action::Allow, &[]),
        ("spec: {rules: }", Action::Allow, &[]),
        ("spec: {rules: []}", Action::Allow, &[]),
        ("spec: {rules: [{}]}", Action::Allow, &everything),
        (
            "spec: {action: ALLOW, rules: [{}]}",
            Action::Allow,
            &everything,
        ),
        (
            "spec: {action: DENY, rules: [{}]}",
            Action::Deny,
            &everything,
        ),
        ("spec: {action: AUDIT, rules: []}", Action::Audit, &[]),
        (
            "spec: {rules: [{from: , to: , when: []}]}",
            Action::Allow,
            &everything,
        ),
    ] {
        let policy = policy(rest);
        assert_eq!(
            (policy.action, &policy.rules[..]),
            (action, rules),
            "{rest}"
        );
        assert_eq!(policy.selector, Selector::default(), "{rest}");
        assert!(!policy.dry_run, "{rest}");
    }
}

#[test]
fn names_age_selector_and_dry_run_are_kept() {
    let text = "
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata:
  name: p
  namespace: foo
  creationTimestamp: 2026-01-02T03:04:05Z
  annotations: {istio.io/dry-run: \"true\"}
spec: {selector: {matchLabels: {app: a, empty: \"\"}}, targetRefs: []}
status: {conditions: []}
";
    let Ok(Read::Object(key, object)) = read_text(text) else {
        panic!("it was not taken");
    };
    assert_eq!(key.to_string(), "AuthorizationPolicy foo/p");
    let Object::AuthorizationPolicy(policy) = &*object else {
        panic!("{object:?}");
    };
    assert_eq!((&*policy.namespace, &*policy.name), ("foo", "p"));
    assert_eq!(policy.created.unwrap().unix_timestamp(), 1_767_323_045);
    let labels = BTreeMap::from([("app".into(), "a".into()), ("empty".into(), "".into())]);
    assert_eq!(policy.selector, Selector(labels));
    assert!(policy.dry_run);
}

#[test]
fn what_is_wrong_around_the_rules_is_told_with_its_path() {
    let cases = r#"
        spec: [] => spec => expected an object with selector, action
        spec: ALLOW => spec => found text
        specs: {} => specs => write `spec`
        rules: [] => rules => unknown field, expected apiVersion, kind, metadata, spec or status
        spec: {rule: []} => spec.rule => write `rules`
        spec: {Action: DENY} => spec.Action => write `action`
        spec: {from: []} => spec.from => unknown field, expected selector, action
        spec: {mtls: {}} => spec.mtls => unknown field
        spec: {selector: {app: a}} => spec.selector.app => only `matchLabels` may be here, and fields within it
        spec: {selector: {matchExpressions: []}} => spec.selector.matchExpressions => unknown field
        spec: {selector: {match_labels: {}}} => spec.selector.match_labels => write `matchLabels`
        spec: {selector: app} => spec.selector => expected an object with matchLabels, found text
        spec: {selector: {matchLabels: [app]}} => spec.selector.matchLabels => expected labels and their values, found a list
        spec: {selector: {matchLabels: {app: true}}} => spec.selector.matchLabels.app => put it in quotes: "true"
        spec: {selector: {matchLabels: {v: 1}}} => spec.selector.matchLabels.v => put it in quotes: "1"
        spec: {selector: {matchLabels: {app: null}}} => spec.selector.matchLabels.app => expected text, found nothing
        spec: {selector: {matchLabels: {app: {}}}} => spec.selector.matchLabels.app => expected text, found an object
        spec: {selector: {matchLabels: {app: "a*"}}} => spec.selector.matchLabels.app => patterns are not possible
        spec: {selector: {matchLabels: {"*": a}}} => spec.selector.matchLabels.* => patterns are not possible
        spec: {selector: {matchLabels: {"": a}}} => spec.selector.matchLabels. => not a label's name
        spec: {action: allow} => spec.action => expected ALLOW, DENY, AUDIT or CUSTOM: write ALLOW
        spec: {action: Deny, rules: [{}]} => spec.action => write DENY
        spec: {action: REJECT} => spec.action => `REJECT` is not known, expected ALLOW, DENY
        spec: {action: 1} => spec.action => expected text, found a number
        spec: {action: ""} => spec.action => must not be empty
        spec: {action: [DENY]} => spec.action => expected text, found a list
        spec: {action: CUSTOM, provider: {name: x}, rules: [{}]} => spec.action => external authorizer, which is not supported: use ALLOW, DENY or AUDIT
        spec: {action: ALLOW, provider: {name: x}, rules: [{}]} => spec.provider => belongs to the action CUSTOM
        spec: {targetRef: {kind: Gateway, name: w}} => spec.targetRef => need a waypoint
        spec: {targetRefs: [{kind: Service, name: w}]} => spec.targetRefs => use `spec.selector`
        spec: {targetRefs: x} => spec.targetRefs => need a waypoint
        spec: {rules: {}} => spec.rules => expected a list, found an object: start it with `- `
        spec: {rules: all} => spec.rules => expected a list, found text: write ["all"]
        spec: {rules: [null]} => spec.rules[0] => matches everything, write `{}`
        spec: {rules: [{}, x]} => spec.rules[1] => expected an object with from, to or when, found text
        spec: {rules: [[]]} => spec.rules[0] => found a list
        spec: {action: DENY} => spec.rules => a DENY without rules denies nothing
        spec: {action: DENY, rules: []} => spec.rules => write one rule that is empty: `- {}`
    "#;
    assert_wrong(cases, whole, "");
}

#[test]
fn what_is_wrong_with_its_metadata_is_told_with_its_path() {
    let with_metadata = |metadata: &str| {
        spec("{}").replace("namespace: foo", &format!("namespace: foo, {metadata}"))
    };
    let cases = r#"
        annotations: {istio.io/dry-run: "yes"} => annotations[istio.io/dry-run] => `yes` is not known, expected true or false
        annotations: {istio.io/dry-run: "True"} => annotations[istio.io/dry-run] => write true
        annotations: {istio.io/dry-run: ""} => annotations[istio.io/dry-run] => must not be empty
        annotations: {istio.io/dry-run: true} => annotations[istio.io/dry-run] => expected text, found true or false: put it in quotes: "true"
        annotations: {other: 1} => annotations.other => put it in quotes: "1"
        annotations: dry-run => annotations => expected names and their values, found text
        labels: [a] => labels => expected names and their values, found a list
        creationTimestamp: yesterday => creationTimestamp =>
    "#;
    assert_wrong(cases, with_metadata, "metadata.");
}

#[test]
fn a_policy_of_another_version_or_group_or_without_a_name_is_refused() {
    for (from, to, path) in [
        (
            "security.istio.io/v1",
            "security.istio.io/v1alpha1",
            "apiVersion",
        ),
        ("security.istio.io/v1", "v1", "apiVersion"),
        ("security.istio.io/v1", "securty.istio.io/v1", "apiVersion"),
        ("name: p, ", "", "metadata.name"),
        ("name: p, ", "name: 1, ", "metadata.name"),
        ("namespace: foo", "namespace: 1", "metadata.namespace"),
        ("namespace: foo", "namespace: Foo_", "metadata.namespace"),
    ] {
        let rejection = read_text(&spec("{}").replace(from, to)).unwrap_err();
        assert_eq!(rejection.problems[0].path.to_string(), path);
        assert!(rejection.stand_in.is_some());
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let rejection = read_text(&spec(
        "{action: deny, rules: [{from: [{source: {ipBlocks: [x, 10.0.0.0/33]}}], to: [{operation: {ports: [http]}}]}]}",
    ));
    let rejection = rejection.unwrap_err();
    let paths: Vec<String> = rejection
        .problems
        .iter()
        .map(|problem| problem.path.to_string())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.action",
            "spec.rules[0].from[0].source.ipBlocks[0]",
            "spec.rules[0].from[0].source.ipBlocks[1]",
            "spec.rules[0].to[0].operation.ports[0]",
        ]
    );
    let many = format!("{{rules: [{}]}}", ["x"; 100].join(", "));
    let message = read_text(&spec(&many)).unwrap_err().message();
    assert!(message.ends_with("; and 95 more"), "{message}");
}

#[test]
fn a_policy_that_decides_nothing_closes_nothing_when_it_is_wrong() {
    let dry_run = spec("{rules: [x]}").replace(
        "namespace: foo",
        "namespace: foo, annotations: {istio.io/dry-run: \"true\"}",
    );
    for (text, closes) in [
        (spec("{action: AUDIT, rules: [x]}"), false),
        (dry_run.clone(), false),
        (dry_run.replace("\"true\"", "\"false\""), true),
        (spec("{action: ALLOW, rules: [x]}"), true),
        (object("PeerAuthentication", "spec: {action: AUDIT}"), true),
    ] {
        let rejection = read_text(&text).unwrap_err();
        assert_eq!(rejection.stand_in.is_some(), closes, "{text}");
    }
}

#[test]
fn what_layer_4_cannot_enforce_is_told_with_what_becomes_of_the_rule() {
    let rules = "rules: [{to: [{operation: {ports: [\"80\"], methods: [GET]}}]}, {}, {from: [{source: {requestPrincipals: [\"*\"]}}]}, {when: [{key: \"request.headers[x]\", values: [a]}]}]";
    for (action, consequences) in [
        ("ALLOW", ["never matches"; 3]),
        (
            "DENY",
            [
                "denies all that the rest",
                "denies every connection",
                "denies every connection",
            ],
        ),
        (
            "AUDIT",
            [
                "reports all that the rest",
                "reports every connection",
                "reports every connection",
            ],
        ),
    ] {
        let policy = policy(&format!("spec: {{action: {action}, {rules}}}"));
        let told: Vec<_> = unenforceable(&policy).collect();
        let attributes = [
            ("spec.rules[0]", "to[0].operation.methods"),
            ("spec.rules[2]", "from[0].source.requestPrincipals"),
            ("spec.rules[3]", "when[0] (request.headers[x])"),
        ];
        assert_eq!(told.len(), 3, "{told:?}");
        for (((path, message), (rule, attribute)), consequence) in
            told.iter().zip(attributes).zip(consequences)
        {
            assert_eq!(path.to_string(), rule);
            assert!(
                message.starts_with("not enforceable at layer 4: "),
                "{message}"
            );
            assert!(
                message.contains(attribute) && message.contains(consequence),
                "{message}"
            );
        }
    }
}
