//! What is printed decides as the legacy objects did, by a plain reading of Istio's rules for them.

use std::{fmt::Write as _, net::SocketAddr};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};

use super::*;
use crate::{
    mesh::{
        Identity, PodName, Workload,
        policy::{Connection, Decision, authorization::StringMatch},
    },
    source::{
        TranslateSettings,
        document::{parse_yaml, split},
        kubernetes_objects::{self as objects, Read},
        translate::Translator,
    },
};

const NAMESPACES: [&str; 2] = ["a", "b"];
const APPS: [&str; 2] = ["x", "y"];
const PORTS: [u16; 2] = [8080, 9090];

#[derive(Clone, Debug)]
struct Legacy {
    mode: &'static str,
    config_permissive: bool,
    namespaces: Vec<&'static str>,
    services: Vec<(&'static str, &'static str)>,
    bindings: Vec<Binding>,
}

#[derive(Clone, Debug)]
struct Binding {
    namespace: &'static str,
    permissive: bool,
    rules: Vec<AccessRule>,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug)]
struct AccessRule {
    services: Vec<&'static str>,
    port: Option<u16>,
    version: Option<&'static str>,
    namespace: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Subject {
    user: Option<&'static str>,
    principal: Option<&'static str>,
    namespace: Option<&'static str>,
    ip: Option<&'static str>,
}

fn host(namespace: &str, app: &str) -> String {
    format!("{app}.{namespace}.svc.cluster.local")
}

fn legacy() -> impl Strategy<Value = Legacy> {
    let all: Vec<_> = NAMESPACES
        .iter()
        .flat_map(|ns| APPS.iter().map(move |app| (*ns, *app)))
        .collect();
    (
        select(vec!["OFF", "ON", "ON_WITH_INCLUSION", "ON_WITH_EXCLUSION"]),
        prop::bool::weighted(0.1),
        subsequence(NAMESPACES.to_vec(), 0..=2),
        subsequence(all, 0..=4),
        vec(binding(), 0..3),
    )
        .prop_map(
            |(mode, config_permissive, namespaces, services, bindings)| Legacy {
                mode,
                config_permissive,
                namespaces,
                services,
                bindings,
            },
        )
}

fn binding() -> impl Strategy<Value = Binding> {
    (
        select(NAMESPACES.to_vec()),
        prop::bool::weighted(0.2),
        vec(access_rule(), 0..3),
        vec(subject(), 0..3),
    )
        .prop_map(|(namespace, permissive, rules, subjects)| Binding {
            namespace,
            permissive,
            rules,
            subjects,
        })
}

fn access_rule() -> impl Strategy<Value = AccessRule> {
    let covered = select(vec![
        "*",
        "*.svc.cluster.local",
        "x.a.svc.cluster.local",
        "y.b.svc.cluster.local",
    ]);
    // With these the migration is listed as not faithful.
    let listed = select(vec!["*.a.svc.cluster.local", "x*", "y.a*", "x"]);
    let services = prop_oneof![9 => covered, 1 => listed];
    (
        vec(services, 1..3),
        prop::option::of(select(PORTS.to_vec())),
        prop::option::weighted(0.3, select(vec!["v1", "v2"])),
        prop::option::weighted(0.2, select(NAMESPACES.to_vec())),
    )
        .prop_map(|(services, port, version, namespace)| AccessRule {
            services,
            port,
            version,
            namespace,
        })
}

fn subject() -> impl Strategy<Value = Subject> {
    let possible = select(vec!["*", "td/ns/a/sa/s", "td/ns/a/*", "*/sa/s"]);
    let principals = prop_oneof![9 => possible, 1 => Just("alice@yahoo.com")];
    (
        prop::option::weighted(0.8, principals.clone()),
        prop::option::weighted(0.2, principals),
        prop::option::weighted(0.3, select(vec!["a", "b", "a*", "*"])),
        prop::option::weighted(0.3, select(vec!["10.0.0.0/8", "10.0.0.1"])),
    )
        .prop_map(|(user, principal, namespace, ip)| Subject {
            user,
            principal,
            namespace,
            ip,
        })
}

impl Legacy {
    fn yaml(&self) -> String {
        let key = match self.mode {
            "ON_WITH_INCLUSION" => "inclusion",
            _ => "exclusion",
        };
        let services: Vec<_> = self
            .services
            .iter()
            .map(|(ns, app)| host(ns, app))
            .collect();
        let mode = if self.config_permissive {
            "PERMISSIVE"
        } else {
            "ENFORCED"
        };
        let mut yaml = rbac_config(&format!(
            "{{mode: '{}', enforcement_mode: {mode}, {key}: {{namespaces: {:?}, services: {services:?}}}}}",
            self.mode, self.namespaces
        ));
        for namespace in NAMESPACES {
            for app in APPS {
                yaml += &service(namespace, app);
            }
        }
        for (index, binding) in self.bindings.iter().enumerate() {
            let rules: Vec<Value> = binding.rules.iter().map(AccessRule::value).collect();
            let subjects: Vec<Value> = binding.subjects.iter().map(Subject::value).collect();
            let metadata =
                serde_json::json!({"name": format!("o{index}"), "namespace": binding.namespace});
            for (kind, spec) in [
                ("ServiceRole", serde_json::json!({"rules": rules})),
                (
                    "ServiceRoleBinding",
                    serde_json::json!({
                        "subjects": subjects,
                        "mode": if binding.permissive { "PERMISSIVE" } else { "ENFORCED" },
                        "roleRef": {"kind": "ServiceRole", "name": format!("o{index}")},
                    }),
                ),
            ] {
                let object = serde_json::json!({
                    "apiVersion": "rbac.istio.io/v1alpha1", "kind": kind,
                    "metadata": metadata, "spec": spec,
                });
                write!(yaml, "---\n{object}\n").unwrap();
            }
        }
        yaml
    }

    fn allows(&self, request: &Request) -> bool {
        let listed = self.namespaces.contains(&request.namespace)
            || self.services.contains(&(request.namespace, request.app));
        let enforced = match self.mode {
            "OFF" => false,
            "ON" => true,
            "ON_WITH_INCLUSION" => listed,
            _ => !listed,
        };
        if !enforced || self.config_permissive {
            return true;
        }
        self.bindings.iter().any(|binding| {
            binding.namespace == request.namespace
                && !binding.permissive
                && binding.rules.iter().any(|rule| rule.matches(request))
                && binding
                    .subjects
                    .iter()
                    .any(|subject| subject.matches(request))
        })
    }
}

impl AccessRule {
    fn value(&self) -> Value {
        let mut constraints = Vec::new();
        if let Some(port) = self.port {
            constraints
                .push(serde_json::json!({"key": "destination.port", "values": [port.to_string()]}));
        }
        if let Some(version) = self.version {
            constraints.push(
                serde_json::json!({"key": "destination.labels[version]", "values": [version]}),
            );
        }
        if let Some(namespace) = self.namespace {
            constraints
                .push(serde_json::json!({"key": "destination.namespace", "values": [namespace]}));
        }
        serde_json::json!({"services": self.services, "constraints": constraints})
    }

    fn matches(&self, request: &Request) -> bool {
        let host = host(request.namespace, request.app);
        self.services
            .iter()
            .any(|service| StringMatch::from(*service).matches(&host))
            && self.port.is_none_or(|port| port == request.port)
            && self
                .version
                .is_none_or(|version| version == request.version)
            && self
                .namespace
                .is_none_or(|namespace| namespace == request.namespace)
    }
}

impl Subject {
    fn value(&self) -> Value {
        let mut properties = serde_json::Map::new();
        for (key, value) in [
            ("source.principal", self.principal),
            ("source.namespace", self.namespace),
            ("source.ip", self.ip),
        ] {
            properties.extend(value.map(|value| (key.to_owned(), value.into())));
        }
        serde_json::json!({"user": self.user, "properties": properties})
    }

    fn matches(&self, request: &Request) -> bool {
        let principal = request.source.map_or("", |source| source);
        let namespace = principal.split('/').nth(2).unwrap_or_default();
        let matches = |pattern: &str, value: &str| StringMatch::from(pattern).matches(value);
        let is_nobody = self.user.is_none()
            && self.principal.is_none()
            && self.namespace.is_none()
            && self.ip.is_none();
        !is_nobody
            && self
                .user
                .is_none_or(|user| user == "*" || matches(user, principal))
            && self
                .principal
                .is_none_or(|pattern| matches(pattern, principal))
            && self
                .namespace
                .is_none_or(|pattern| matches(pattern, namespace))
            && self
                .ip
                .is_none_or(|block| block == "10.0.0.0/8" || request.ip == "10.0.0.1")
    }
}

#[derive(Clone, Debug)]
struct Request {
    source: Option<&'static str>,
    ip: &'static str,
    namespace: &'static str,
    app: &'static str,
    version: &'static str,
    port: u16,
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for source in [
        None,
        Some("td/ns/a/sa/s"),
        Some("td/ns/b/sa/s"),
        Some("td/ns/a/sa/t"),
    ] {
        for ip in ["10.0.0.1", "10.9.9.9"] {
            for namespace in NAMESPACES {
                for app in APPS {
                    for version in ["v1", "v2"] {
                        for port in PORTS {
                            requests.push(Request {
                                source,
                                ip,
                                namespace,
                                app,
                                version,
                                port,
                            });
                        }
                    }
                }
            }
        }
    }
    requests
}

fn pods() -> String {
    let mut yaml = String::new();
    let mut number = 0;
    for namespace in NAMESPACES {
        for app in APPS {
            for version in ["v1", "v2"] {
                number += 1;
                write!(
                    yaml,
                    "---\napiVersion: v1\nkind: Pod\n\
                     metadata: {{name: {app}-{version}, namespace: {namespace}, \
                     labels: {{app: {app}, version: {version}}}}}\n\
                     spec: {{nodeName: n}}\nstatus: {{podIPs: [{{ip: 10.1.0.{number}}}]}}\n"
                )
                .unwrap();
            }
        }
    }
    yaml
}

fn snapshot(migration: &Migration) -> crate::mesh::Snapshot {
    let mut translator = Translator::new(TranslateSettings {
        trust_domain: "td".parse().unwrap(),
        trust_domain_aliases: std::sync::Arc::default(),
        cluster_id: "c".into(),
        cluster_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    });
    let settings = translator.settings().clone();
    let pods = split(&pods())
        .into_iter()
        .map(|document| parse_yaml(document).unwrap())
        .filter(|value| !value.is_null())
        .collect::<Vec<_>>();
    let policies = migration
        .policies
        .iter()
        .map(|policy| serde_json::to_value(policy).unwrap());
    for value in pods.into_iter().chain(policies) {
        match objects::read(&value, settings.read_context()) {
            Ok(Read::Object(key, object)) => translator.insert(key, object),
            other => panic!("{value}: {other:?}"),
        }
    }
    translator.snapshot()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_more_is_allowed_and_nothing_less_where_nothing_is_listed(legacy in legacy()) {
        let migration = run(&legacy.yaml());
        let snapshot = snapshot(&migration);
        for request in requests() {
            let pod = PodName::new(request.namespace, &format!("{}-{}", request.app, request.version));
            let destination: &Workload = snapshot.workload_by_pod(&pod).unwrap();
            let source: Option<Identity> = request.source.map(|source| format!("spiffe://{source}").parse().unwrap());
            let connection = Connection {
                source: source.as_ref(),
                source_address: SocketAddr::new(request.ip.parse().unwrap(), 40000),
                destination,
                destination_address: (destination.addresses[0], request.port).into(),
            };
            let now = snapshot.policies().authorize(&connection) == Decision::Allow;
            let before = legacy.allows(&request);
            prop_assert!(before || !now, "opened: {request:?}\n{:#?}", migration);
            if migration.report.is_faithful() {
                prop_assert_eq!(before, now, "closed in silence: {:?}\n{:#?}", request, migration);
            }
        }
    }
}
