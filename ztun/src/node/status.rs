//! What `ztun status` shows.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use ztun_common::Verdict;

use super::{
    kubelet::{KubeletProbes, KubeletStatus},
    membership::{Membership, Uncaptured},
    pods::Pods,
    privileges::Privileges,
    readiness::Readiness,
};
use crate::{
    cert::{CertificateManager, CertificateStatus, Trust, trust::TrustStatus},
    mesh::{Identity, Mesh, PodName, WorkloadUid},
    observe::ConnectionStatus,
    proxy::Proxy,
    redirect::{CaptureState, PodSandbox, Redirect},
    source::{FileSource, Problem},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub node: String,
    pub version: String,
    /// Empty when the node is ready; otherwise what it waits for.
    pub not_ready: Vec<String>,
    pub mesh: MeshStatus,
    #[serde(default)]
    pub kubelet: KubeletStatus,
    #[serde(default)]
    pub privileges: Privileges,
    pub pods: Vec<PodStatus>,
    pub certificates: Vec<CertificateStatus>,
    #[serde(default)]
    pub trust: TrustStatus,
    pub connections: Vec<ConnectionStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    pub workloads: usize,
    pub services: usize,
    /// When the source could last be read.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub as_of: Option<OffsetDateTime>,
    /// Objects that the source could not use.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub pod: PodName,
    pub addresses: Vec<IpAddr>,
    pub capture: CaptureState,
    /// What the daemon tries to change about it in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What the kernel programs counted, by verdict; those that never came are left out.
    #[serde(default)]
    pub verdicts: BTreeMap<String, u64>,
    /// `None` while the mesh doesn't know the pod.
    pub workload: Option<WorkloadUid>,
    pub identity: Option<Identity>,
}

/// Puts a report together from the parts that know.
#[derive(Debug)]
pub struct StatusReporter {
    pub node: String,
    pub pods: Arc<Pods>,
    pub membership: Arc<Membership>,
    pub proxy: Arc<Proxy>,
    pub mesh: Arc<Mesh>,
    pub certificates: Arc<CertificateManager>,
    pub trust: Arc<Trust>,
    pub source: Arc<FileSource>,
    pub readiness: Arc<Readiness>,
    pub kubelet: Arc<KubeletProbes>,
    pub privileges: Privileges,
}

impl StatusReporter {
    pub async fn report(&self) -> NodeStatus {
        let snapshot = self.mesh.snapshot();
        NodeStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            not_ready: self.readiness.missing(),
            mesh: MeshStatus {
                workloads: snapshot.workloads().len(),
                services: snapshot.services().len(),
                as_of: Some(self.source.as_of()),
                problems: self.source.problems().to_vec(),
            },
            kubelet: self.kubelet.status(),
            privileges: self.privileges.clone(),
            pods: self.pods(Redirect::check).await,
            certificates: self.certificates.status(),
            trust: self.trust.status(),
            connections: self.proxy.connections(),
        }
    }

    /// The pods, each with a test connection.
    pub async fn verified_pods(&self) -> Vec<PodStatus> {
        self.pods(Redirect::verify).await
    }

    /// The enrolled pods, and those that take part but are not captured.
    async fn pods(&self, look: fn(&Redirect, &PodSandbox) -> CaptureState) -> Vec<PodStatus> {
        let snapshot = self.mesh.snapshot();
        let mut captures = self.pods.capture_states(look).await;
        let mut verdicts: BTreeMap<PodName, _> = self.pods.verdicts().into_iter().collect();
        let mut pods: Vec<PodStatus> = self
            .pods
            .list()
            .into_iter()
            .map(|entry| {
                let pod = entry.sandbox.pod;
                let workload = snapshot.workload_by_pod(&pod);
                PodStatus {
                    capture: captures
                        .remove(&pod)
                        .unwrap_or_else(|| CaptureState::NotCaptured {
                            why: "released while this report was made".to_owned(),
                        }),
                    verdicts: verdicts.remove(&pod).map(named).unwrap_or_default(),
                    workload: workload.map(|workload| workload.uid.clone()),
                    identity: workload.map(|workload| workload.identity.clone()),
                    problem: self.membership.problem(&pod),
                    addresses: entry.addresses.to_vec(),
                    pod,
                }
            })
            .collect();
        for Uncaptured { pod, workload, why } in self.membership.uncaptured(&snapshot) {
            // One of the same name may be on its way out.
            if !pods.iter().any(|listed| listed.pod == pod) {
                let workload = workload.as_ref();
                pods.push(PodStatus {
                    pod,
                    addresses: workload.map_or_else(Vec::new, |it| it.addresses.clone()),
                    capture: CaptureState::NotCaptured { why },
                    problem: None,
                    verdicts: BTreeMap::new(),
                    workload: workload.map(|it| it.uid.clone()),
                    identity: workload.map(|it| it.identity.clone()),
                });
            }
        }
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        pods
    }
}

fn named(verdicts: Vec<(Verdict, u64)>) -> BTreeMap<String, u64> {
    verdicts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(verdict, count)| (verdict.name().to_owned(), count))
        .collect()
}
