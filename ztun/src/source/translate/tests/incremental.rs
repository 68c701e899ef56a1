//! After any changes the snapshot is the one that translating everything anew would give.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use super::*;
use crate::mesh::workload::Membership;

const NAMESPACES: [&str; 2] = ["foo", "bar"];
/// Few, so that pods, machines and what names them meet.
const NAMES: [&str; 3] = ["a", "b", "c"];
const SERVICES: [&str; 2] = ["s", "t"];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "fd00::1"];
const VIPS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "fd01::1"];
const PORTS: [u16; 2] = [80, 443];
const NODE: &str = "n";

#[derive(Clone, Debug)]
enum Change {
    Put(Value),
    /// The object that the value is the latest version of.
    Remove(Value),
}

fn object(
    api: &'static str,
    kind: &'static str,
    names: &'static [&'static str],
    rest: impl Strategy<Value = (Value, Value)>,
) -> impl Strategy<Value = Value> {
    (select(&NAMESPACES), select(names), rest).prop_map(
        move |(namespace, name, (metadata, rest))| {
            let mut value = json!({"apiVersion": api, "kind": kind, "metadata": metadata});
            value["metadata"]["name"] = name.into();
            value["metadata"]["namespace"] = namespace.into();
            for (field, content) in rest.as_object().unwrap() {
                value[field] = content.clone();
            }
            value
        },
    )
}

fn labels() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"app": "x"}),
        json!({"app": "x", "tier": "z"}),
        json!({"app": "y", "tier": "z"}),
        json!({"app": "x", "istio.io/dataplane-mode": "none"}),
        json!({"app": "y", "istio.io/dataplane-mode": "ambient"}),
    ])
}

fn selector() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"app": "x"}),
        json!({"app": "y"}),
        json!({"tier": "z"}),
        json!({"app": "x", "tier": "z"}),
    ])
}

fn namespace() -> impl Strategy<Value = Value> {
    let labels = select(vec![
        json!({}),
        json!({"istio.io/dataplane-mode": "ambient"}),
        json!({"istio.io/dataplane-mode": "ambient", "team": "a"}),
    ]);
    (select(&NAMESPACES), labels).prop_map(|(name, labels)| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let status = (
        select(vec![
            "Pending",
            "Running",
            "Running",
            "Running",
            "Succeeded",
        ]),
        subsequence(ADDRESSES.to_vec(), 0..=2),
        option::of(any::<bool>()),
    );
    let age = (option::of(select(vec!["1", "2"])), any::<bool>(), 0..3u8);
    let spec = (any::<bool>(), any::<bool>());
    let rest = (labels(), age, spec, status).prop_map(
        |(labels, (uid, ending, age), (host, named), (phase, ips, ready))| {
            let mut metadata = json!({"labels": labels, "uid": uid});
            if age > 0 {
                metadata["creationTimestamp"] = format!("2026-01-01T00:00:0{age}Z").into();
            }
            if ending {
                metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let ports = if named { json!([{"name": "http", "containerPort": 8080}]) } else { json!([]) };
            let conditions = ready.map(|ready| {
                json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}])
            });
            let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            let rest = json!({
                "spec": {"nodeName": NODE, "hostNetwork": host && ending, "containers": [{"ports": ports}]},
                "status": {"phase": phase, "podIPs": ips, "conditions": conditions},
            });
            (metadata, rest)
        },
    );
    object("v1", "Pod", &NAMES, rest)
}

fn workload_entry() -> impl Strategy<Value = Value> {
    let address = select(vec!["10.0.0.1", "10.0.0.9", "host.example.org"]);
    let rest = (labels(), address, any::<bool>()).prop_map(|(labels, address, ports)| {
        let ports = if ports {
            json!({"http": 8081})
        } else {
            json!({})
        };
        let spec = json!({"address": address, "labels": labels, "ports": ports});
        (json!({}), json!({"spec": spec}))
    });
    object("networking.istio.io/v1", "WorkloadEntry", &NAMES, rest)
}

fn service() -> impl Strategy<Value = Value> {
    let ports = select(vec![
        json!([{"name": "http", "port": 80, "targetPort": "http"}]),
        json!([{"name": "http", "port": 80}, {"name": "tls", "port": 443, "targetPort": 8443}]),
        json!([]),
    ]);
    let rest = (
        selector(),
        subsequence(VIPS.to_vec(), 0..=2),
        ports,
        any::<bool>(),
    )
        .prop_map(|(selector, vips, ports, not_ready)| {
            let spec = json!({
                "clusterIPs": vips, "selector": selector, "ports": ports,
                "publishNotReadyAddresses": not_ready,
            });
            (json!({}), json!({"spec": spec}))
        });
    object("v1", "Service", &SERVICES, rest)
}

fn slice() -> impl Strategy<Value = Value> {
    let target = option::of(select(&NAMES));
    let addresses = subsequence(vec!["10.0.0.1", "10.0.0.2", "192.0.2.1", "nonsense"], 1..=2);
    let endpoint =
        (target, addresses, option::of(any::<bool>())).prop_map(|(target, addresses, ready)| {
            let target = target.map(|name| json!({"kind": "Pod", "name": name}));
            json!({"addresses": addresses, "conditions": {"ready": ready}, "targetRef": target})
        });
    let ports = select(vec![
        json!([{"name": "http", "port": 8088}]),
        json!([{"name": "http", "port": 8089}, {"name": "tls", "port": 8443}]),
    ]);
    let owner = option::weighted(0.9, select(&SERVICES));
    let family = select(vec!["IPv4", "IPv4", "IPv4", "FQDN"]);
    let rest = (owner, family, vec(endpoint, 0..3), ports).prop_map(
        |(owner, family, endpoints, ports)| {
            let labels = match owner {
                Some(owner) => json!({"kubernetes.io/service-name": owner}),
                None => json!({}),
            };
            let rest = json!({"addressType": family, "endpoints": endpoints, "ports": ports});
            (json!({"labels": labels}), rest)
        },
    );
    object("discovery.k8s.io/v1", "EndpointSlice", &NAMES, rest)
}

fn service_entry() -> impl Strategy<Value = Value> {
    let hosts = select(vec![json!(["s"]), json!(["db.example.org"]), json!([])]);
    let addresses = subsequence(vec!["10.1.0.1", "10.1.0.2", "10.2.0.0/16"], 0..=2);
    let resolution = select(vec!["STATIC", "STATIC", "STATIC", "DNS"]);
    let endpoints = subsequence(vec!["192.0.2.1", "192.0.2.2", "host.example.org"], 0..=3);
    let rest = (
        hosts,
        addresses,
        resolution,
        endpoints,
        option::of(selector()),
    )
        .prop_map(|(hosts, addresses, resolution, endpoints, selector)| {
            let endpoints: Vec<_> = endpoints.iter().map(|it| json!({"address": it})).collect();
            let spec = json!({
                "hosts": hosts, "addresses": addresses, "resolution": resolution,
                "endpoints": endpoints,
                "ports": [{"number": 80, "name": "http", "targetPort": 8080}],
                "workloadSelector": selector.map(|labels| json!({"labels": labels})),
            });
            (json!({}), json!({"spec": spec}))
        });
    let names = &["s", "u"];
    object("networking.istio.io/v1", "ServiceEntry", names, rest)
}

fn policy() -> impl Strategy<Value = Value> {
    let authorization = select(vec![
        json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["foo"]}}]}]}),
        json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
        json!({"selector": {"matchLabels": {"app": "x"}}}),
    ]);
    let authentication = select(vec![
        json!({"mtls": {"mode": "STRICT"}}),
        json!({"selector": {"matchLabels": {"app": "x"}}, "mtls": {"mode": "PERMISSIVE"}}),
    ]);
    let spec = |spec: Value| (json!({}), json!({"spec": spec}));
    let api = "security.istio.io/v1";
    prop_oneof![
        object(
            api,
            "AuthorizationPolicy",
            &NAMES,
            authorization.prop_map(spec)
        ),
        object(
            api,
            "PeerAuthentication",
            &NAMES,
            authentication.prop_map(spec)
        ),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        1 => namespace(),
        4 => pod(),
        1 => workload_entry(),
        2 => service(),
        3 => slice(),
        1 => service_entry(),
        1 => policy(),
    ];
    (value, 0..4u8).prop_map(|(value, dice)| match dice {
        0 => Change::Remove(value),
        _ => Change::Put(value),
    })
}

/// The objects as they are, and what was last said of namespaces that still have pods.
#[derive(Default)]
struct Store {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    last_said: BTreeMap<ObjectKey, Arc<Object>>,
}

impl Store {
    fn apply(&mut self, change: Change, translator: &mut Translator) {
        let settings = translator.settings().clone();
        let read = |value| match objects::read(value, settings.read_context()).unwrap() {
            Read::Object(key, object) => (key, object),
            other => panic!("{other:?}"),
        };
        match change {
            Change::Put(value) => {
                let (key, object) = read(&value);
                self.objects.insert(key.clone(), Arc::clone(&object));
                translator.insert(key, object);
            }
            Change::Remove(value) => {
                let (key, _) = read(&value);
                self.objects.remove(&key);
                translator.remove(&key);
            }
        }
    }

    fn settle(&mut self, snapshot: &Snapshot) {
        let with_pods: BTreeSet<&str> = snapshot
            .workloads()
            .filter(|workload| workload.uid.0.contains("//Pod/"))
            .map(|workload| &*workload.pod.namespace)
            .collect();
        let namespaces = self.objects.iter();
        let namespaces = namespaces.filter(|(key, _)| key.kind == Kind::Namespace);
        for (key, object) in namespaces {
            self.last_said.insert(key.clone(), Arc::clone(object));
        }
        self.last_said
            .retain(|key, _| with_pods.contains(&*key.namespace));
    }

    fn translated_anew(&self) -> (Snapshot, Vec<ObjectProblem>) {
        let mut translator = translator();
        for (key, object) in self.last_said.iter().chain(&self.objects) {
            translator.insert(key.clone(), Arc::clone(object));
        }
        translator.snapshot();
        for key in self.last_said.keys() {
            if !self.objects.contains_key(key) {
                translator.remove(key);
            }
        }
        let snapshot = translator.snapshot();
        (snapshot, translator.problems())
    }
}

/// All that can be asked of a snapshot.
fn shown(snapshot: &Snapshot, mut problems: Vec<ObjectProblem>) -> Vec<String> {
    problems.sort();
    let mut shown = vec![
        serde_json::to_string(snapshot).unwrap(),
        format!("{problems:#?}"),
    ];
    shown.extend(snapshot.workloads_on(NODE).map(|it| it.uid.to_string()));
    for address in ADDRESSES.iter().chain(&VIPS) {
        let address: std::net::IpAddr = address.parse().unwrap();
        for port in PORTS {
            let routes = snapshot.routes((address, port).into());
            shown.push(format!("{address} {port}: {routes:?}"));
        }
    }
    for name in NAMESPACES
        .iter()
        .flat_map(|ns| NAMES.map(|it| PodName::new(ns, it)))
    {
        let uid = snapshot.workload_by_pod(&name).map(|it| &it.uid);
        shown.push(format!("{name}: {uid:?}"));
    }
    shown
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_changes_lead_to_is_what_everything_anew_gives(
        batches in vec(vec(change(), 1..5), 1..20),
    ) {
        let mut translator = translator();
        let mut store = Store::default();
        let mut last = Vec::new();
        for batch in batches {
            let described = format!("{batch:#?}");
            for change in batch {
                store.apply(change, &mut translator);
            }
            let snapshot = translator.snapshot();
            store.settle(&snapshot);
            let (anew, problems) = store.translated_anew();
            let told = translator.problems();
            prop_assert_eq!(
                shown(&snapshot, told.clone()),
                shown(&anew, problems),
                "after {}", described
            );
            if !translator.take_problems_changed() {
                prop_assert_eq!(&last, &told, "problems changed unnoticed");
            }
            last = told;
        }
    }
}

#[test]
fn the_changes_that_are_tried_meet_all_there_is() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut translator = translator();
    let mut store = Store::default();
    let mut seen = BTreeSet::new();
    for _ in 0..600 {
        let change = change().new_tree(&mut runner).unwrap().current();
        store.apply(change, &mut translator);
        let snapshot = translator.snapshot();
        let memberships = snapshot.workloads().map(|it| match it.membership {
            Membership::Member => "member",
            Membership::Outside => "outside",
            Membership::Undecided => "undecided",
        });
        seen.extend(memberships);
        let of_address = |it: &Arc<Workload>| it.uid.0.contains("//Endpoint/");
        if snapshot.workloads().any(of_address) {
            seen.insert("address only");
        }
        if snapshot
            .services()
            .any(|service| service.endpoints.len() > 1)
        {
            seen.insert("several endpoints");
        }
        let problems = translator.problems();
        for text in [
            "same name",
            "is gone",
            "also claimed",
            "also that of",
            "host names",
        ] {
            if problems.iter().any(|it| it.message.contains(text)) {
                seen.insert(text);
            }
        }
    }
    let expected = BTreeSet::from([
        "member",
        "outside",
        "undecided",
        "address only",
        "several endpoints",
        "same name",
        "is gone",
        "also claimed",
        "also that of",
        "host names",
    ]);
    assert_eq!(seen, expected);
}
