//! Meshes of any size, every connection of which is allowed, but only by the policy looked at last.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use ztun::mesh::{
    Connection, Identity, PodName, Policies, Snapshot, TrustDomain, Workload, WorkloadUid,
    policy::{
        PolicyKey, PolicyKind, Selector,
        authorization::{Action, AuthorizationPolicy, Operation, Rule, Source, StringMatch},
    },
    workload::{Health, Locality, Membership, NetworkMode, TunnelProtocol, WorkloadKind},
};

const ROOT: &str = "istio-system";
const TRUST_DOMAIN: &str = "cluster.local";
const PORT: u16 = 8080;
/// Of a namespace, in [`Shape::ManyNamespaces`].
const POLICIES: usize = 10;
const SERVICE_ACCOUNTS: usize = 4;
/// Prime, so that a step of this many comes by everything and never near the last one.
const STEP: usize = 7_919;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Ten policies in each: two for all of it, and one for each of eight applications.
    ManyNamespaces,
    /// Each policy selects another application there.
    OneNamespace,
    /// One policy for the mesh that names every pod's own namespace, identity or address.
    Named(Naming),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Namespaces,
    Principals,
    IpBlocks,
}

pub struct LargeMesh {
    shape: Shape,
    policies: usize,
    workloads: Vec<Arc<Workload>>,
}

impl LargeMesh {
    pub fn new(shape: Shape, policies: usize, workloads: usize) -> Result<Self> {
        let mut mesh = Self {
            shape,
            policies,
            workloads: Vec::new(),
        };
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
        for number in 0..workloads {
            let workload = mesh.workload(number, trust_domain.clone())?;
            mesh.workloads.push(Arc::new(workload));
        }
        Ok(mesh)
    }

    pub fn snapshot_without_policies(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.set_policies(Policies::new(ROOT));
        for workload in &self.workloads {
            snapshot.insert_workload(Arc::clone(workload));
        }
        snapshot
    }

    /// Made anew, so that they share no text with one another.
    pub fn policies(&self) -> impl Iterator<Item = (PolicyKey, AuthorizationPolicy)> {
        (0..self.policies).map(|number| self.policy(number))
    }

    pub fn changed_policy(&self, number: usize) -> (PolicyKey, AuthorizationPolicy) {
        let (key, mut policy) = self.policy(number * STEP % self.policies);
        policy.rules.push(rule(Source::default()));
        (key, policy)
    }

    pub fn changed_workload(&self, number: usize) -> Arc<Workload> {
        let workload = &self.workloads[number * STEP % self.workloads.len()];
        let mut changed = Workload::clone(workload);
        changed.labels.insert("changed".into(), "yes".into());
        Arc::new(changed)
    }

    /// One to each workload, from one that may.
    pub fn connections(&self) -> Vec<Connection<'_>> {
        let count = self.workloads.len();
        let connection = |number: usize| {
            let destination: &Workload = &self.workloads[number];
            let source = (number + self.namespaces()) % count;
            Connection {
                source: Some(&self.workloads[source].identity),
                source_address: SocketAddr::from((pod_address(source), 40_000)),
                destination,
                destination_address: SocketAddr::from((pod_address(number), PORT)),
            }
        };
        (0..count)
            .map(|number| connection(number * STEP % count))
            .collect()
    }

    fn namespaces(&self) -> usize {
        match self.shape {
            Shape::ManyNamespaces => self.policies / POLICIES,
            Shape::OneNamespace | Shape::Named(_) => 1,
        }
    }

    fn workload(&self, number: usize, trust_domain: TrustDomain) -> Result<Workload> {
        let within = number / self.namespaces();
        let (namespace, account, app) = match self.shape {
            Shape::ManyNamespaces => (
                namespace(number % self.namespaces()),
                format!("account-{}", within % SERVICE_ACCOUNTS),
                within % (POLICIES - 2) + 2,
            ),
            Shape::OneNamespace => (namespace(0), "default".to_owned(), number % self.policies),
            Shape::Named(_) => (namespace(number), "default".to_owned(), 0),
        };
        let name = format!("app-{app}-{number}");
        let labels = [
            ("app.kubernetes.io/managed-by", "helm".to_owned()),
            ("app.kubernetes.io/name", format!("app-{app}")),
            ("app.kubernetes.io/version", "1.2.3".to_owned()),
            ("helm.sh/chart", "app-1.2.3".to_owned()),
            ("pod-template-hash", format!("{number:010x}")),
        ];
        let labels = labels.map(|(key, value)| (key.into(), value.into()));
        Ok(Workload {
            uid: WorkloadUid(format!("bench//Pod/{namespace}/{name}").into()),
            pod: PodName::new(&namespace, &name),
            pod_uid: Arc::default(),
            membership: Membership::Member,
            identity: Identity::new(trust_domain, &namespace, &account)
                .context("make an identity")?,
            addresses: vec![pod_address(number).into()],
            node: "node".into(),
            tunnel_protocol: TunnelProtocol::Hbone,
            health: Health::Healthy,
            network_mode: NetworkMode::Pod,
            locality: Locality::default(),
            labels: BTreeMap::from(labels),
            workload_name: name.as_str().into(),
            workload_kind: WorkloadKind::Deployment,
            canonical_service: name.as_str().into(),
            canonical_revision: "latest".into(),
            cluster_id: "bench".into(),
            created: None,
        })
    }

    fn policy(&self, number: usize) -> (PolicyKey, AuthorizationPolicy) {
        let (namespace, action, app, source) = match self.shape {
            Shape::ManyNamespaces => {
                let name = namespace(number / POLICIES);
                match number % POLICIES {
                    0 => (name, Action::Deny, None, from_namespace("quarantine")),
                    1 => (name, Action::Allow, None, from_namespace("ingress")),
                    app => {
                        let source = from_accounts(&name);
                        (name, Action::Allow, Some(app), source)
                    }
                }
            }
            Shape::OneNamespace => {
                let name = namespace(0);
                let source = from_namespace(&name);
                (name, Action::Allow, Some(number), source)
            }
            Shape::Named(naming) => (
                ROOT.to_owned(),
                Action::Allow,
                None,
                self.every_source(naming),
            ),
        };
        let name = format!("policy-{number}");
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, &namespace, &name);
        let policy = AuthorizationPolicy {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            created: None,
            selector: app.map(selector).unwrap_or_default(),
            action,
            dry_run: false,
            rules: vec![rule(source)],
        };
        (key, policy)
    }

    fn every_source(&self, naming: Naming) -> Source {
        let numbers = 0..self.workloads.len();
        let mut source = Source::default();
        match naming {
            Naming::Namespaces => {
                let exact = numbers.map(|number| StringMatch::Exact(namespace(number).into()));
                source.namespaces = exact.collect();
            }
            Naming::Principals => {
                let exact = numbers.map(|number| principal(&namespace(number), "default"));
                source.principals = exact.collect();
            }
            Naming::IpBlocks => {
                source.ip_blocks = numbers
                    .map(|number| std::net::IpAddr::from(pod_address(number)).into())
                    .collect();
            }
        }
        source
    }
}

fn namespace(number: usize) -> String {
    format!("namespace-{number}")
}

/// With a gap after each, so that blocks of one address don't join.
fn pod_address(number: usize) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    let offset = u32::try_from(2 * number).unwrap_or(u32::MAX);
    Ipv4Addr::from(first.wrapping_add(offset))
}

/// The first label is on every pod, the second one tells them apart.
fn selector(app: usize) -> Selector {
    let labels = [
        ("app.kubernetes.io/managed-by", "helm".to_owned()),
        ("app.kubernetes.io/name", format!("app-{app}")),
    ];
    Selector(labels.map(|(key, value)| (key.into(), value.into())).into())
}

fn rule(source: Source) -> Rule {
    Rule {
        from: vec![source],
        to: vec![Operation {
            ports: vec![PORT],
            not_ports: Vec::new(),
        }],
        ..Rule::default()
    }
}

fn from_namespace(namespace: &str) -> Source {
    Source {
        namespaces: vec![StringMatch::Exact(namespace.into())],
        ..Source::default()
    }
}

fn from_accounts(namespace: &str) -> Source {
    let accounts = 0..SERVICE_ACCOUNTS;
    Source {
        principals: accounts
            .map(|account| principal(namespace, &format!("account-{account}")))
            .collect(),
        ..Source::default()
    }
}

fn principal(namespace: &str, account: &str) -> StringMatch {
    StringMatch::Exact(format!("{TRUST_DOMAIN}/ns/{namespace}/sa/{account}").into())
}
