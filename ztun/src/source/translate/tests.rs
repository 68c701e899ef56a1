#![allow(clippy::unwrap_used)]

mod incremental;
mod membership;
mod targets;

use std::collections::BTreeMap;

use super::*;
use crate::{
    mesh::{
        PodName, Service, ServiceKey, Workload,
        workload::{Health, TunnelProtocol, WorkloadKind},
    },
    source::{
        document,
        kubernetes_objects::{self as objects, Read},
    },
};

fn translator() -> Translator {
    Translator::new(TranslateSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        trust_domain_aliases: Arc::default(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    })
}

fn insert(translator: &mut Translator, text: &str) {
    for document in document::split(text) {
        let value = document::parse_yaml(document).unwrap();
        let settings = translator.settings().clone();
        match objects::read(&value, settings.read_context()).unwrap() {
            Read::Object(key, object) => translator.insert(key, object),
            other => panic!("{other:?}"),
        }
    }
}

fn translated(text: &str) -> (Snapshot, Vec<ObjectProblem>) {
    let mut translator = translator();
    insert(&mut translator, text);
    let snapshot = translator.snapshot();
    (snapshot, translator.problems())
}

fn service<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Service {
    snapshot.service(&ServiceKey::new("foo", name)).unwrap()
}

fn pod<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Workload {
    snapshot
        .workload_by_pod(&PodName::new("foo", name))
        .unwrap()
}

/// Endpoints by their pod's name: ready, and the ports.
fn endpoints(snapshot: &Snapshot, name: &str) -> BTreeMap<String, (bool, Vec<(u16, u16)>)> {
    let endpoints = service(snapshot, name).endpoints.iter();
    endpoints
        .map(|(uid, endpoint)| {
            let pod = snapshot.workload(uid).unwrap().pod.name.to_string();
            let ports = endpoint.ports.iter().map(|(from, to)| (*from, *to));
            (pod, (endpoint.ready, ports.collect()))
        })
        .collect()
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec:
  clusterIP: 10.1.0.1
  clusterIPs: [10.1.0.1, \"fd01::1\"]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: admin, port: 9000}
  - {name: dns, port: 53, protocol: UDP}
";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: ready, namespace: foo, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}], conditions: [{type: Ready, status: \"True\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unready, namespace: foo, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 8081}]}]}
status: {phase: Running, podIP: 10.0.0.2, conditions: [{type: Ready, status: \"False\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nameless-port, namespace: foo, labels: {app: web}, deletionTimestamp: \"2026-01-01T00:00:00Z\"}
status: {phase: Running, podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: foo, labels: {app: other}}
status: {phase: Running, podIP: 10.0.0.4}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: bar, labels: {app: web}}
status: {phase: Running, podIP: 10.0.0.5}
";

#[test]
fn a_service_without_slices_is_resolved_by_its_selector() {
    let (snapshot, problems) = translated(&format!("{SERVICE}---{PODS}"));
    assert_eq!(problems, []);
    let web = service(&snapshot, "web");
    assert_eq!(&*web.hostname, "web.foo.svc.cluster.local");
    assert_eq!(web.ports, [80, 9000]);
    assert_eq!(web.vips.len(), 2);
    let expected = BTreeMap::from([
        ("ready".to_owned(), (true, vec![(80, 8080), (9000, 9000)])),
        (
            "unready".to_owned(),
            (false, vec![(80, 8081), (9000, 9000)]),
        ),
        ("nameless-port".to_owned(), (false, vec![(9000, 9000)])),
    ]);
    assert_eq!(endpoints(&snapshot, "web"), expected);
    assert_eq!(pod(&snapshot, "unready").health, Health::Unhealthy);
}

#[test]
fn a_service_that_publishes_unready_pods_has_them_ready() {
    let publishing = SERVICE.replace("  selector", "  publishNotReadyAddresses: true\n  selector");
    let (snapshot, _) = translated(&format!("{publishing}---{PODS}"));
    assert!(
        endpoints(&snapshot, "web")
            .values()
            .all(|(ready, _)| *ready)
    );
}

#[test]
fn a_service_with_slices_is_what_they_say() {
    let slice = |family, address: &str, name: &str| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{name}, namespace: foo, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{name: http, port: 8088, protocol: TCP}}]
endpoints:
- {{addresses: [\"{address}\"], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: other}}}}
- {{addresses: [10.0.0.1], conditions: {{ready: false}}}}
- {{addresses: [192.0.2.7]}}
"
        )
    };
    let text = format!(
        "{SERVICE}---{PODS}{}{}",
        slice("IPv4", "10.0.0.4", "4"),
        slice("IPv6", "fd00::4", "6")
    );
    let (snapshot, problems) = translated(&text);
    assert_eq!(problems, []);
    let expected = BTreeMap::from([
        ("other".to_owned(), (true, vec![(80, 8088)])),
        ("ready".to_owned(), (false, vec![(80, 8088)])),
        ("web/192.0.2.7".to_owned(), (true, vec![(80, 8088)])),
    ]);
    assert_eq!(endpoints(&snapshot, "web"), expected);
    assert!(
        snapshot
            .workload_by_address("192.0.2.7".parse().unwrap())
            .is_none()
    );
}

#[test]
fn a_headless_service_has_no_address() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: foo}\nspec: {clusterIP: None, clusterIPs: [None], ports: null}\n";
    let (snapshot, _) = translated(text);
    assert!(service(&snapshot, "web").vips.is_empty());
}

#[test]
fn a_pods_workload_carries_who_it_is_and_what_made_it() {
    let text = "
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f-abcde
  namespace: foo
  uid: 1234
  labels: {app: web, pod-template-hash: 5d4f, version: v2}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4f, controller: true}]
spec: {nodeName: n1, serviceAccountName: web}
status: {phase: Pending}
";
    let error = {
        let value = document::parse_yaml(document::split(text)[0]).unwrap();
        let translator = translator();
        objects::read(&value, translator.settings().read_context()).unwrap_err()
    };
    assert!(
        error.message().starts_with("metadata.uid: "),
        "{}",
        error.message()
    );

    let (snapshot, _) = translated(&text.replace("1234", "\"1234\""));
    let workload = pod(&snapshot, "web-5d4f-abcde");
    assert_eq!(&*workload.uid.0, "Kubernetes//Pod/foo/web-5d4f-abcde/1234");
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://cluster.local/ns/foo/sa/web"
    );
    assert_eq!(
        (&*workload.workload_name, workload.workload_kind),
        ("web", WorkloadKind::Deployment)
    );
    assert_eq!(
        (&*workload.canonical_service, &*workload.canonical_revision),
        ("web", "v2")
    );
    assert_eq!(&*workload.node, "n1");
    assert!(workload.addresses.is_empty());
}

#[test]
fn a_cron_jobs_pod_is_named_for_the_cron_job_and_a_jobs_for_the_job() {
    for (job, name, kind) in [
        ("report-28374650", "report", WorkloadKind::CronJob),
        ("migrate-7", "migrate-7", WorkloadKind::Job),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: foo, ownerReferences: [{{kind: Job, name: {job}, controller: true}}]}}\n"
        );
        let (snapshot, _) = translated(&text);
        let workload = pod(&snapshot, "p");
        assert_eq!(
            (&*workload.workload_name, workload.workload_kind),
            (name, kind)
        );
    }
}

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: foo}
spec: {address: 192.0.2.1, labels: {app: db}, serviceAccount: db, locality: eu/a, ports: {sql: 3307}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: foo}
spec:
  hosts: [db.example.org]
  addresses: [10.2.0.1, 10.3.0.0/16]
  ports: [{number: 3306, name: sql, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: db}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: written-out, namespace: foo}
spec:
  hosts: [out.example.org]
  addresses: [10.2.0.2]
  ports: [{number: 443, name: tls, targetPort: 8443}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.8}, {address: host.example.org}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns, namespace: foo}
spec: {hosts: [dns.example.org], resolution: DNS}
";

#[test]
fn entries_make_machines_and_services_outside_kubernetes() {
    let (snapshot, problems) = translated(ENTRIES);
    let vm = pod(&snapshot, "vm");
    assert_eq!(vm.identity.service_account(), "db");
    assert_eq!((&*vm.locality.region, &*vm.locality.zone), ("eu", "a"));
    assert_eq!(vm.tunnel_protocol, TunnelProtocol::None);
    let expected = |name: &str, ports| BTreeMap::from([(name.to_owned(), (true, vec![ports]))]);
    assert_eq!(
        endpoints(&snapshot, "db.example.org"),
        expected("vm", (3306, 3307))
    );
    assert_eq!(
        endpoints(&snapshot, "out.example.org"),
        expected("written-out/192.0.2.8", (443, 8443))
    );
    let messages: Vec<_> = problems
        .iter()
        .map(|it| format!("{}: {}", it.object, it.message))
        .collect();
    assert_eq!(messages.len(), 3, "{messages:#?}");
    for (message, text) in messages
        .iter()
        .zip(["10.3.0.0/16", "STATIC", "host.example.org"])
    {
        assert!(message.contains(text), "{messages:#?}");
    }
}

#[test]
fn a_machine_is_enrolled_by_its_own_label() {
    let (snapshot, _) = translated(&ENTRIES.replace(
        "{app: db}, serv",
        "{app: db, istio.io/dataplane-mode: ambient}, serv",
    ));
    assert_eq!(pod(&snapshot, "vm").tunnel_protocol, TunnelProtocol::Hbone);
}

#[test]
fn two_services_with_one_address_are_both_named() {
    let second = SERVICE.replace("name: web,", "name: zeb,");
    let (snapshot, problems) = translated(&format!("{SERVICE}---{second}"));
    let holder = snapshot
        .service_by_vip("10.1.0.1".parse().unwrap())
        .unwrap();
    assert_eq!(&*holder.key.name, "web");
    assert_eq!(problems.len(), 2, "one for each address: {problems:?}");
    assert!(problems[0].object.contains("foo/zeb") && problems[0].message.contains("foo/web"));
}

#[test]
fn a_change_leaves_what_it_does_not_concern_as_it_was() {
    let mut translator = translator();
    insert(&mut translator, &format!("{SERVICE}---{PODS}"));
    let before = translator.snapshot();
    insert(&mut translator, &PODS.replace("10.0.0.4", "10.0.0.44"));
    let after = translator.snapshot();
    let same = |name| {
        let name = PodName::new("foo", name);
        Arc::ptr_eq(
            before.workload_by_pod(&name).unwrap(),
            after.workload_by_pod(&name).unwrap(),
        )
    };
    assert!(same("ready"));
    assert!(!same("other"));
    assert!(
        after
            .workload_by_address("10.0.0.44".parse().unwrap())
            .is_some()
    );
}

#[test]
fn what_is_removed_is_gone_with_its_endpoints() {
    let mut translator = translator();
    insert(&mut translator, &format!("{SERVICE}---{PODS}"));
    translator.snapshot();
    let key = |kind, name: &str| ObjectKey {
        namespace: "foo".into(),
        kind,
        name: name.into(),
    };
    translator.remove(&key(Kind::Pod, "ready"));
    let snapshot = translator.snapshot();
    assert!(
        snapshot
            .workload_by_pod(&PodName::new("foo", "ready"))
            .is_none()
    );
    assert!(!endpoints(&snapshot, "web").contains_key("ready"));
    translator.remove(&key(Kind::Service, "web"));
    assert!(
        translator
            .snapshot()
            .service_by_vip("10.1.0.1".parse().unwrap())
            .is_none()
    );
}
