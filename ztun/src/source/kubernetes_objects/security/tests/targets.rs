//! Whom policies close that can't be enforced.

use super::*;
use crate::source::kubernetes_objects::ObjectKey;

/// Services of namespace `foo`, whatever namespace they are written for.
const SERVICES: [(&str, &str); 4] = [
    (
        "web",
        "{selector: {app: web, tier: front}, ports: [{port: 80}]}",
    ),
    (
        "api",
        "{selector: {app: api, tier: front}, ports: [{port: 80}]}",
    ),
    ("db", "{selector: {app: db}, ports: [{port: 80}]}"),
    ("elsewhere", "{ports: [{port: 80}]}"),
];
const SERVICE_ENTRY: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: foo}
spec: {hosts: [vm.example.com], ports: [{number: 80, name: x}], workloadSelector: {labels: {app: vm}}}
";

fn objects(namespace: &str) -> Vec<(ObjectKey, std::sync::Arc<Object>)> {
    let services = SERVICES.map(|(name, spec)| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: foo}}\nspec: {spec}\n")
    });
    let texts = services.into_iter().chain([SERVICE_ENTRY.to_owned()]);
    let texts =
        texts.map(|text| text.replace("namespace: foo", &format!("namespace: {namespace}")));
    let read = |text: String| match read_text(&text).unwrap() {
        Read::Object(key, object) => (key, object),
        other => panic!("{text}: {other:?}"),
    };
    texts.map(read).collect()
}

/// What a policy with this rest of its spec closes.
fn closed(namespace: &str, spec: &str) -> String {
    let text = object("AuthorizationPolicy", &format!("spec: {{{spec}}}"));
    let text = text.replace("namespace: foo", &format!("namespace: {namespace}"));
    let rejection = read_text(&text).unwrap_err();
    let Some(Object::Unreadable(policy)) = rejection.stand_in.as_deref() else {
        panic!("{spec} leaves its target open");
    };
    let known = objects(namespace);
    let find = |key: &ObjectKey| known.iter().find(|(known, _)| known == key);
    let closed = policy.closed(|key| find(key).map(|(_, object)| &**object));
    closed.target.to_string()
}

#[test]
fn a_policy_for_services_closes_the_workloads_behind_them_and_no_others() {
    for (references, target) in [
        (
            "{kind: Service, name: db}",
            "every workload with app=db of namespace foo",
        ),
        (
            "{kind: Service, group: \"\", name: db}",
            "every workload with app=db of namespace foo",
        ),
        (
            "{kind: Service, group: core, name: db, namespace: foo}",
            "every workload with app=db of namespace foo",
        ),
        (
            "{kind: ServiceEntry, group: networking.istio.io, name: vm}",
            "every workload with app=vm of namespace foo",
        ),
        (
            "{kind: Service, name: web}, {kind: Service, name: api}",
            "every workload with tier=front of namespace foo",
        ),
    ] {
        assert_eq!(
            closed("foo", &format!("targetRefs: [{references}]")),
            target
        );
    }
    let one = "targetRef: {kind: Service, name: db}";
    assert_eq!(
        closed("foo", one),
        "every workload with app=db of namespace foo"
    );
    let root = "every workload with app=db of namespace istio-system";
    assert_eq!(closed("istio-system", one), root, "not of the mesh");
}

#[test]
fn what_is_behind_a_reference_that_cannot_be_told_is_the_namespace_or_the_mesh() {
    for spec in [
        "targetRefs: [{kind: Service, name: unknown}]",
        "targetRefs: [{kind: Service, name: elsewhere}]",
        "targetRefs: [{kind: Service, name: web}, {kind: Service, name: db}]",
        "targetRefs: [{kind: Service, name: db}, {kind: Service, name: unknown}]",
        "targetRefs: [{kind: Service, name: db}, {kind: Gateway, group: gateway.networking.k8s.io, name: w}]",
        "targetRefs: [{kind: Service, name: db, namespace: bar}]",
        "targetRefs: [{kind: Service, group: apps, name: db}]",
        "targetRefs: [{kind: Service}]",
        "targetRefs: {kind: Gateway, name: w}",
        "targetRefs: w",
        "targetRefs: [{kind: Service, name: db}], selector: {matchLabels: {app: a}}",
    ] {
        assert_eq!(
            closed("foo", spec),
            "every workload of namespace foo",
            "{spec}"
        );
    }
    let class = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]";
    assert_eq!(closed("istio-system", class), "every workload of the mesh");
}

#[test]
fn a_custom_policy_closes_what_it_selects() {
    let spec = "action: CUSTOM, provider: {name: x}, rules: [{}]";
    assert_eq!(closed("foo", spec), "every workload of namespace foo");
    let selecting = format!("{spec}, selector: {{matchLabels: {{app: a}}}}");
    assert_eq!(
        closed("foo", &selecting),
        "every workload with app=a of namespace foo"
    );
    assert_eq!(
        closed("istio-system", &selecting),
        "every workload with app=a of the mesh"
    );
}
