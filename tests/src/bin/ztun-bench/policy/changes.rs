//! From a source's event to the published snapshot and what follows it, in a mesh of any size.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use ztun::{
    mesh::Mesh,
    node::membership::decision,
    source::{
        TranslateSettings,
        kubernetes_objects::{self as objects, Read},
        translate::Translator,
    },
};

use crate::trend::median;

/// Of a node: Kubernetes' limit.
const PODS_OF_NODE: usize = 110;
/// Of a service, where namespaces are small; a slice holds as many in the large one.
const ENDPOINTS: usize = 10;
const ENDPOINTS_OF_SLICE: usize = 100;
/// Of a namespace, in small ones.
const PODS_OF_NAMESPACE: usize = 100;
/// Prime: a step of this many comes by everything.
const STEP: usize = 7_919;
const LARGE: &str = "large";

/// How many of each there are; besides, one namespace has `large` pods in one service.
#[derive(Clone, Copy)]
pub struct Size {
    pub pods: usize,
    pub policies: usize,
    pub large: usize,
}

pub struct Cluster {
    size: Size,
    translator: Translator,
    mesh: Arc<Mesh>,
}

/// What one change of a kind takes: the median.
pub struct Cost {
    pub change: &'static str,
    /// To the snapshot and its problems.
    pub translated: Duration,
    /// With its publication and what the node then looks at: which of its pods take part.
    pub followed: Duration,
}

/// The object that another change is about each time, and whether it is there after it.
type Change<'a> = dyn Fn(usize) -> (Value, bool) + 'a;

#[derive(Clone, Copy)]
enum State {
    Usual,
    Relabelled,
    Moved,
}

impl Cluster {
    pub fn new(size: Size) -> Result<Self> {
        let settings = TranslateSettings {
            trust_domain: "cluster.local".parse()?,
            cluster_id: "bench".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            trust_domain_aliases: Arc::default(),
        };
        let mut cluster = Self {
            size,
            translator: Translator::new(settings),
            mesh: Mesh::empty(),
        };
        let namespaces = size.pods / PODS_OF_NAMESPACE;
        for number in 0..namespaces {
            cluster.put(&namespace(&format!("ns-{number}")))?;
        }
        cluster.put(&namespace(LARGE))?;
        for number in 0..size.pods {
            cluster.put(&pod(&Place::small(number), State::Usual))?;
        }
        for number in 0..size.pods / ENDPOINTS {
            cluster.put(&service(number, 80))?;
            cluster.put(&slice_of(number, true))?;
        }
        for number in 0..size.policies {
            cluster.put(&policy(number, namespaces))?;
        }
        for number in 0..size.large {
            cluster.put(&pod(&Place::large(number), State::Usual))?;
        }
        for service in ["selected", "sliced"] {
            cluster.put(&large_service(service))?;
        }
        for number in 0..size.large / ENDPOINTS_OF_SLICE {
            cluster.put(&large_slice(number, true))?;
        }
        cluster.publish();
        Ok(cluster)
    }

    pub fn measure(&mut self, count: u32) -> Result<Vec<Cost>> {
        let Size { pods, large, .. } = self.size;
        // Each object changes once: a second time would change nothing.
        let count = count.min(u32::try_from(large)?);
        let small = |number: usize| Place::small(number * STEP % pods);
        let of_large = |number: usize| Place::large(number * STEP % large);
        let there = |place, state| (pod(&place, state), true);
        let changes: [(&'static str, &Change<'_>); 9] = [
            ("pod: label", &|n| there(small(n), State::Relabelled)),
            ("pod: address", &|n| there(small(n), State::Moved)),
            ("pod: removed", &|n| (pod(&small(n), State::Usual), false)),
            ("pod: added", &|n| there(small(n), State::Usual)),
            ("endpoint slice", &|n| {
                (slice_of(n * STEP % (pods / ENDPOINTS), false), true)
            }),
            ("service", &|n| {
                (service(n * STEP % (pods / ENDPOINTS), 81), true)
            }),
            ("large: pod's address", &|n| {
                there(of_large(n), State::Moved)
            }),
            ("large: pod removed", &|n| {
                (pod(&of_large(n), State::Usual), false)
            }),
            ("large: endpoint slice", &|n| {
                let slices = large / ENDPOINTS_OF_SLICE;
                let ready = (n - 1) / slices % 2 == 1;
                (large_slice(n * STEP % slices, ready), true)
            }),
        ];
        changes
            .into_iter()
            .map(|(change, value)| self.cost(change, count, value))
            .collect()
    }

    fn cost(&mut self, change: &'static str, count: u32, value: &Change<'_>) -> Result<Cost> {
        let (mut translated, mut followed) = (Vec::new(), Vec::new());
        for number in 1..=count as usize {
            let (value, is_there) = value(number);
            let (key, object) = self.read(&value)?;
            let before = self.mesh.snapshot();
            let start = Instant::now();
            if is_there {
                self.translator.insert(key, object);
            } else {
                self.translator.remove(&key);
            }
            let snapshot = self.translator.snapshot();
            if self.translator.take_problems_changed() {
                black_box(self.translator.problems());
            }
            translated.push(start.elapsed());
            self.mesh.publish(snapshot);
            let snapshot = self.mesh.snapshot();
            black_box(decision::tasks(&node(0), &snapshot, &[], &[]));
            drop(before);
            followed.push(start.elapsed());
        }
        Ok(Cost {
            change,
            translated: median(&translated).unwrap_or_default(),
            followed: median(&followed).unwrap_or_default(),
        })
    }

    fn put(&mut self, value: &Value) -> Result<()> {
        let (key, object) = self.read(value)?;
        self.translator.insert(key, object);
        Ok(())
    }

    fn read(&self, value: &Value) -> Result<(objects::ObjectKey, Arc<objects::Object>)> {
        match objects::read(value, self.translator.settings().read_context()) {
            Ok(Read::Object(key, object)) => Ok((key, object)),
            Ok(other) => bail!("not an object of the mesh: {other:?}"),
            Err(rejection) => Err(anyhow!("{}: {}", rejection.object, rejection.message())),
        }
    }

    fn publish(&mut self) {
        let snapshot = self.translator.snapshot();
        self.translator.take_problems_changed();
        self.mesh.publish(snapshot);
    }
}

/// Where a pod is.
struct Place {
    number: usize,
    namespace: String,
    app: String,
    address: Ipv4Addr,
}

impl Place {
    fn small(number: usize) -> Self {
        Self {
            number,
            namespace: format!("ns-{}", number / PODS_OF_NAMESPACE),
            app: format!("app-{}", number / ENDPOINTS),
            address: offset(Ipv4Addr::new(10, 0, 0, 0), number),
        }
    }

    fn large(number: usize) -> Self {
        Self {
            number,
            namespace: LARGE.to_owned(),
            app: LARGE.to_owned(),
            address: offset(Ipv4Addr::new(11, 0, 0, 0), number),
        }
    }
}

fn namespace(name: &str) -> Value {
    let labels = json!({"istio.io/dataplane-mode": "ambient"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(place: &Place, state: State) -> Value {
    let Place {
        number,
        namespace,
        app,
        address,
    } = place;
    let (version, address) = match state {
        State::Usual => ("1", *address),
        State::Relabelled => ("2", *address),
        State::Moved => ("1", offset(*address, 0x4000_0000)),
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("pod-{number}"), "namespace": namespace, "uid": number.to_string(),
            "labels": {"app": app, "version": version, "app.kubernetes.io/managed-by": "helm"},
        },
        "spec": {"nodeName": node(number / PODS_OF_NODE)},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn service(number: usize, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{number}"), "namespace": Place::small(number * ENDPOINTS).namespace},
        "spec": {
            "clusterIP": offset(Ipv4Addr::new(172, 16, 0, 0), number),
            "selector": {"app": format!("app-{number}")},
            "ports": [{"name": "http", "port": port, "targetPort": 8080}],
        },
    })
}

fn slice_of(number: usize, ready: bool) -> Value {
    let places = (number * ENDPOINTS..).take(ENDPOINTS).map(Place::small);
    slice(&format!("service-{number}"), number, places, ready)
}

fn large_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": LARGE},
        "spec": {"selector": {"app": LARGE}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn large_slice(number: usize, ready: bool) -> Value {
    let places = (number * ENDPOINTS_OF_SLICE..).take(ENDPOINTS_OF_SLICE);
    slice("sliced", number, places.map(Place::large), ready)
}

/// `ready` is the first endpoint's.
fn slice(service: &str, number: usize, places: impl Iterator<Item = Place>, ready: bool) -> Value {
    let mut namespace = String::new();
    let endpoints: Vec<Value> = places
        .enumerate()
        .map(|(index, place)| {
            namespace.clone_from(&place.namespace);
            json!({
                "addresses": [place.address], "conditions": {"ready": ready || index > 0},
                "targetRef": {"kind": "Pod", "name": format!("pod-{}", place.number)},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}],
    })
}

fn policy(number: usize, namespaces: usize) -> Value {
    let namespace = format!("ns-{}", number % namespaces);
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
        "spec": {"rules": [{"from": [{"source": {"namespaces": [namespace]}}]}]},
    })
}

fn node(number: usize) -> String {
    format!("node-{number}")
}

fn offset(first: Ipv4Addr, number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(first).wrapping_add(number))
}
