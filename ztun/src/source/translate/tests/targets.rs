//! Policies whose target depends on other objects, or that have none.

use super::*;
use crate::mesh::Connection;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: foo, labels: {app: web}}
spec: {nodeName: n}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: foo, labels: {app: db}}
spec: {nodeName: n}
";
const POLICY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: foo}
spec: {targetRefs: [{kind: Service, name: db}], rules: [{}]}
";

fn closed(snapshot: &Snapshot) -> Vec<&str> {
    let closed = |workload: &&Arc<Workload>| {
        let connection = Connection {
            source: Some(&workload.identity),
            source_address: "192.0.2.1:1".parse().unwrap(),
            destination: workload,
            destination_address: "192.0.2.2:80".parse().unwrap(),
        };
        snapshot.authorize(&connection) != crate::mesh::Decision::Allow
    };
    let workloads = snapshot.workloads().filter(closed);
    workloads.map(|workload| &*workload.pod.name).collect()
}

#[test]
fn what_a_policy_for_a_service_closes_follows_the_service() {
    let mut translator = translator();
    insert(&mut translator, PODS);
    let document = document::split(POLICY)[0];
    let value = document::parse_yaml(document).unwrap();
    let settings = translator.settings().clone();
    let rejection = objects::read(&value, settings.read_context()).unwrap_err();
    translator.insert(rejection.key.unwrap(), rejection.stand_in.unwrap());
    assert_eq!(closed(&translator.snapshot()), ["db", "web"], "unknown");

    let service = |label: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: foo}}\nspec: {{selector: {{app: {label}}}, ports: [{{port: 80}}]}}\n"
        )
    };
    insert(&mut translator, &service("db"));
    assert_eq!(closed(&translator.snapshot()), ["db"]);
    let message = &translator.problems()[0].message;
    assert!(
        message.starts_with("denies every workload with app=db of namespace foo: "),
        "{message}"
    );

    insert(&mut translator, &service("web"));
    assert_eq!(closed(&translator.snapshot()), ["web"]);
    let key = ObjectKey {
        namespace: "foo".into(),
        kind: Kind::Service,
        name: "db".into(),
    };
    translator.remove(&key);
    assert_eq!(
        closed(&translator.snapshot()),
        ["db", "web"],
        "unknown again"
    );
}

#[test]
fn a_peer_authentication_that_is_ignored_is_told() {
    let (_, problems) = translated(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: istio-system}\nspec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}\n",
    );
    assert!(
        problems[0].message.contains("has no effect, as in Istio"),
        "{problems:?}"
    );
}
