//! Legacy objects in, policies and the list out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod articles;
mod authentication;
mod destination_rules;
mod enforcement;
mod layer7;
mod reading;
mod roles;
mod semantics;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Format, Input, Layer7, Migration, Outcome, Settings, migrate};

fn settings(layer7: Layer7) -> Settings {
    Settings {
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        layer7,
    }
}

fn read(yaml: &str) -> Input {
    let mut input = Input::default();
    input.read("test.yaml", Format::Yaml, yaml);
    input
}

fn run(yaml: &str) -> Migration {
    run_with(Layer7::Keep, yaml)
}

fn run_with(layer7: Layer7, yaml: &str) -> Migration {
    let input = read(yaml);
    assert_eq!(input.problems(), [], "{yaml}");
    migrate(&input, &settings(layer7))
}

/// Each policy's `spec` by `Kind namespace/name`; a dry run's key ends with ` (dry run)`.
fn specs(migration: &Migration) -> BTreeMap<String, Value> {
    let policies = migration.policies.iter().map(|policy| {
        let value = serde_json::to_value(policy).unwrap();
        assert_eq!(value["apiVersion"], "security.istio.io/v1");
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let dry_run = match text("/metadata/annotations/istio.io~1dry-run") {
            Some("true") => " (dry run)",
            None => "",
            Some(other) => panic!("istio.io/dry-run: {other}"),
        };
        let key = format!(
            "{} {}/{}{dry_run}",
            text("/kind").unwrap(),
            text("/metadata/namespace").unwrap(),
            text("/metadata/name").unwrap()
        );
        (key, value["spec"].clone())
    });
    policies.collect()
}

/// Asserts that exactly one entry is about `field` and says `text`.
#[track_caller]
fn assert_listed(migration: &Migration, outcome: Outcome, field: &str, text: &str) {
    let entries = migration.report.entries();
    let found = entries.iter().filter(|entry| {
        entry.outcome == outcome && entry.field == field && entry.message.contains(text)
    });
    assert_eq!(found.count(), 1, "{outcome} {field} {text}: {entries:#?}");
}

#[track_caller]
fn assert_nothing_left_out(migration: &Migration) {
    let entries = migration.report.entries();
    assert!(migration.report.is_faithful(), "{entries:#?}");
}

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
    )
}

fn rbac_config(spec: &str) -> String {
    format!(
        "---
apiVersion: rbac.istio.io/v1alpha1
kind: ClusterRbacConfig
metadata: {{name: default}}
spec: {spec}
"
    )
}

/// A role with one rule and a binding of one subject to it, in `shop`, where access control is on.
fn grant(rule: &str, subject: &str) -> String {
    let grant = format!(
        "---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRole
metadata: {{name: role, namespace: shop}}
spec: {{rules: [{rule}]}}
---
apiVersion: rbac.istio.io/v1alpha1
kind: ServiceRoleBinding
metadata: {{name: bind, namespace: shop}}
spec: {{subjects: [{subject}], roleRef: {{kind: ServiceRole, name: role}}}}
"
    );
    rbac_config("{mode: 'ON'}") + &grant + &service("shop", "cart")
}

const CART: &str = r#"{services: ["cart.shop.svc.cluster.local"]}"#;
const ALICE: &str = "{user: cluster.local/ns/shop/sa/alice}";
const GRANTED: &str = "AuthorizationPolicy shop/bind-cart";
