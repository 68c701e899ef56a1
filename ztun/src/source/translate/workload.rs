//! Pods and machines to workloads.

use std::{net::IpAddr, sync::Arc};

use super::TranslateSettings;
use crate::{
    mesh::{
        Identity, PodName, Workload, WorkloadUid,
        identity::IdentityError,
        workload::{Health, Locality, Membership, NetworkMode, TunnelProtocol, WorkloadKind},
    },
    source::kubernetes_objects::{
        Labels, Metadata,
        core::{Phase, Pod},
        networking::WorkloadEntry,
    },
};

const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// On the API server's copy of a pod that kubelet has from a file: its UID there.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod as a workload; `None` once it has ended, for its address may be another's by then.
///
/// `namespace_labels` is `None` where nothing is known of its namespace.
pub(super) fn of_pod(
    namespace: &str,
    pod: &Pod,
    namespace_labels: Option<&Labels>,
    settings: &TranslateSettings,
) -> Result<Option<Workload>, IdentityError> {
    if matches!(pod.status.phase, Some(Phase::Succeeded | Phase::Failed)) {
        return Ok(None);
    }
    let metadata = &pod.metadata;
    let network_mode = if pod.spec.host_network {
        NetworkMode::Host
    } else {
        NetworkMode::Pod
    };
    let membership = match network_mode {
        NetworkMode::Pod => membership(&metadata.labels, &metadata.annotations, namespace_labels),
        NetworkMode::Host => Membership::Outside,
    };
    let (workload_name, workload_kind) = controller(metadata);
    Ok(Some(Workload {
        uid: uid(settings, "/Pod", namespace, metadata),
        pod: PodName::new(namespace, &metadata.name),
        pod_uid: kubelet_uid(metadata),
        membership,
        identity: identity(
            namespace,
            pod.spec.service_account_name.as_deref(),
            settings,
        )?,
        addresses: pod_addresses(pod),
        node: Arc::clone(&pod.spec.node_name),
        tunnel_protocol: tunnel_protocol(membership),
        health: if is_ready(pod) {
            Health::Healthy
        } else {
            Health::Unhealthy
        },
        network_mode,
        locality: Locality::default(),
        canonical_service: canonical_service(&metadata.labels, &workload_name),
        canonical_revision: canonical_revision(&metadata.labels),
        labels: metadata.labels.clone(),
        workload_name,
        workload_kind,
        cluster_id: Arc::clone(&settings.cluster_id),
        created: metadata.creation_timestamp,
    }))
}

/// A machine outside Kubernetes. Its namespace's label doesn't enrol it: nothing there captures it.
pub(super) fn of_workload_entry(
    namespace: &str,
    entry: &WorkloadEntry,
    settings: &TranslateSettings,
) -> Result<Workload, IdentityError> {
    let metadata = &entry.metadata;
    let mut labels = metadata.labels.clone();
    labels.extend(entry.spec.labels.clone());
    let membership = if is_ambient(&labels) || is_redirected(&metadata.annotations) {
        Membership::Member
    } else {
        // Its words are about a machine: a pod of the same name goes by its own.
        Membership::Undecided
    };
    let mut locality = entry.spec.locality.split('/').map(Arc::from);
    let mut part = || locality.next().unwrap_or_default();
    Ok(Workload {
        uid: uid(
            settings,
            "networking.istio.io/WorkloadEntry",
            namespace,
            metadata,
        ),
        pod: PodName::new(namespace, &metadata.name),
        pod_uid: Arc::default(),
        membership,
        identity: identity(namespace, entry.spec.service_account.as_deref(), settings)?,
        addresses: entry.spec.ip().into_iter().collect(),
        node: Arc::default(),
        tunnel_protocol: tunnel_protocol(membership),
        health: Health::Healthy,
        network_mode: NetworkMode::Pod,
        locality: Locality {
            region: part(),
            zone: part(),
            subzone: part(),
        },
        canonical_service: canonical_service(&labels, &metadata.name),
        canonical_revision: canonical_revision(&labels),
        labels,
        workload_name: Arc::clone(&metadata.name),
        workload_kind: WorkloadKind::Pod,
        cluster_id: Arc::clone(&settings.cluster_id),
        created: metadata.creation_timestamp,
    })
}

/// A service's endpoint that is an address and nothing more, such as the API server's.
///
/// It is marked as sharing a host, so that it doesn't claim the address outside of its service.
pub(super) fn of_address(
    namespace: &str,
    owner: &str,
    address: IpAddr,
    settings: &TranslateSettings,
) -> Result<Workload, IdentityError> {
    let name: Arc<str> = format!("{owner}/{address}").into();
    Ok(Workload {
        uid: WorkloadUid(format!("{}//Endpoint/{namespace}/{name}", settings.cluster_id).into()),
        pod: PodName::new(namespace, &name),
        pod_uid: Arc::default(),
        membership: Membership::Undecided,
        identity: identity(namespace, None, settings)?,
        addresses: vec![address],
        node: Arc::default(),
        tunnel_protocol: TunnelProtocol::None,
        health: Health::Healthy,
        network_mode: NetworkMode::Host,
        locality: Locality::default(),
        canonical_service: owner.into(),
        canonical_revision: "latest".into(),
        labels: Labels::new(),
        workload_name: name,
        workload_kind: WorkloadKind::Pod,
        cluster_id: Arc::clone(&settings.cluster_id),
        created: None,
    })
}

/// Ready by its condition; a pod written by hand, without the condition, by having got to run.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.conditions.iter();
    let running = matches!(pod.status.phase, None | Some(Phase::Running));
    match conditions.find(|condition| &*condition.kind == "Ready") {
        Some(ready) => &*ready.status == "True",
        None => running,
    }
}

fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let several: Vec<IpAddr> = pod
        .status
        .pod_ips
        .iter()
        .filter_map(|entry| entry.ip)
        .collect();
    if several.is_empty() {
        pod.status.pod_ip.into_iter().collect()
    } else {
        several
    }
}

/// In the peer's form, `cluster/group/kind/namespace/name`, with the object's UID where it has one:
/// a pod that comes back under the same name is another workload.
fn uid(
    settings: &TranslateSettings,
    kind: &str,
    namespace: &str,
    metadata: &Metadata,
) -> WorkloadUid {
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let separator = if uid.is_empty() { "" } else { "/" };
    let name = &metadata.name;
    WorkloadUid(
        format!(
            "{}/{kind}/{namespace}/{name}{separator}{uid}",
            settings.cluster_id
        )
        .into(),
    )
}

fn identity(
    namespace: &str,
    service_account: Option<&str>,
    settings: &TranslateSettings,
) -> Result<Identity, IdentityError> {
    let service_account = service_account
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    Identity::new(settings.trust_domain.clone(), namespace, service_account)
}

/// The pod's own word before its namespace's.
pub(crate) fn membership(
    labels: &Labels,
    annotations: &Labels,
    namespace_labels: Option<&Labels>,
) -> Membership {
    let own = labels.get(DATAPLANE_MODE).map(AsRef::as_ref);
    match (own, namespace_labels) {
        (Some("none"), _) => Membership::Outside,
        (Some("ambient"), _) => Membership::Member,
        _ if is_redirected(annotations) => Membership::Member,
        (_, Some(labels)) if is_ambient(labels) => Membership::Member,
        (_, Some(_)) => Membership::Outside,
        (_, None) => Membership::Undecided,
    }
}

fn tunnel_protocol(membership: Membership) -> TunnelProtocol {
    match membership {
        Membership::Member => TunnelProtocol::Hbone,
        Membership::Outside | Membership::Undecided => TunnelProtocol::None,
    }
}

fn kubelet_uid(metadata: &Metadata) -> Arc<str> {
    let mirrored = metadata.annotations.get(MIRROR);
    let uid = mirrored.or(metadata.uid.as_ref());
    uid.map(Arc::clone).unwrap_or_default()
}

pub(super) fn is_ambient(labels: &Labels) -> bool {
    labels
        .get(DATAPLANE_MODE)
        .is_some_and(|mode| &**mode == "ambient")
}

fn is_redirected(annotations: &Labels) -> bool {
    let redirection = annotations.get(REDIRECTION);
    redirection.is_some_and(|state| &**state == "enabled")
}

/// A deployment's pods belong to its replica set, a cron job's to one job of a run: both carry the
/// name that people know, with a suffix.
fn controller(metadata: &Metadata) -> (Arc<str>, WorkloadKind) {
    let own = || (Arc::clone(&metadata.name), WorkloadKind::Pod);
    let Some(owner) = metadata
        .owner_references
        .iter()
        .find(|owner| owner.controller)
    else {
        return own();
    };
    match &*owner.kind {
        "ReplicaSet" => {
            let hash = metadata.labels.get("pod-template-hash");
            let name = hash.and_then(|hash| owner.name.strip_suffix(&**hash)?.strip_suffix('-'));
            name.map_or_else(own, |name| (name.into(), WorkloadKind::Deployment))
        }
        "Job" => {
            // A cron job's controller appends the scheduled minute since 1970, eight digits.
            let run = owner.name.rsplit_once('-').filter(|(_, minute)| {
                minute.len() >= 8 && minute.bytes().all(|byte| byte.is_ascii_digit())
            });
            match run {
                Some((name, _)) => (name.into(), WorkloadKind::CronJob),
                None => (Arc::clone(&owner.name), WorkloadKind::Job),
            }
        }
        _ => own(),
    }
}

fn canonical_service(labels: &Labels, workload_name: &str) -> Arc<str> {
    let keys = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    let label = keys.iter().find_map(|key| labels.get(*key));
    label.map_or_else(|| workload_name.into(), Arc::clone)
}

fn canonical_revision(labels: &Labels) -> Arc<str> {
    let keys = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    let label = keys.iter().find_map(|key| labels.get(*key));
    label.map_or_else(|| "latest".into(), Arc::clone)
}
