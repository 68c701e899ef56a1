//! The pods that this node captures: enrolment, release, and what keeps both true over time.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;
use ztun_common::Verdict;

use super::{
    addresses::Followers,
    records::{RecordError, Records},
};
use crate::{
    mesh::{Mesh, PodName, workload::TunnelProtocol},
    proxy::{PodAddresses, ProxiedPod, Proxy},
    redirect::{
        CaptureState, CapturedPod, EnrolError, PinError, PodId, PodNetns, PodSandbox, Redirect,
    },
};

/// Enrols and releases pods; one change at a time, readers never wait for one.
#[derive(Debug)]
pub struct Pods {
    redirect: Arc<Redirect>,
    records: Records,
    proxy: Arc<Proxy>,
    mesh: Arc<Mesh>,
    /// How long an enrolment waits for the mesh to know its pod.
    mesh_wait: Duration,
    enrolled: Mutex<BTreeMap<PodName, Enrolled>>,
    /// Sandboxes whose pod came back in another one. They have no listeners, so they stay closed
    /// until their own DEL, or their end.
    former: Mutex<Vec<Enrolled>>,
    followers: Followers,
    change: tokio::sync::Mutex<()>,
}

/// One captured pod, as status shows it.
#[derive(Clone, Debug)]
pub struct Enrolled {
    pub sandbox: PodSandbox,
    pub addresses: PodAddresses,
    pub netns: Arc<PodNetns>,
}

#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("enrol {pod}: {source}")]
    Capture { pod: PodName, source: EnrolError },
    #[error("enrol {pod}: {source}")]
    Record { pod: PodName, source: RecordError },
    #[error("enrol {pod}: {source}")]
    Serve {
        pod: PodName,
        source: std::io::Error,
    },
    #[error(
        "enrol {pod}: the mesh state doesn't know this pod after {waited:?}; check that the mesh source delivers it"
    )]
    Unknown { pod: PodName, waited: Duration },
    #[error("release {pod}: {source}")]
    Release { pod: PodName, source: PinError },
}

impl PodError {
    /// Whether the same request may succeed later without a change by the caller.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Record { .. })
    }
}

impl Pods {
    pub fn new(
        redirect: Arc<Redirect>,
        records: Records,
        proxy: Arc<Proxy>,
        mesh: Arc<Mesh>,
        mesh_wait: Duration,
    ) -> Self {
        Self {
            followers: Followers::new(redirect.clone(), proxy.clone()),
            redirect,
            records,
            proxy,
            mesh,
            mesh_wait,
            enrolled: Mutex::default(),
            former: Mutex::default(),
            change: tokio::sync::Mutex::default(),
        }
    }

    /// Captures the pod; when this returns, its next connection is captured or refused.
    pub async fn enrol(&self, sandbox: PodSandbox) -> Result<Vec<IpAddr>, PodError> {
        let _one_at_a_time = self.change.lock().await;
        let pod = sandbox.pod.clone();
        let before = self.enrolled().get(&pod).cloned();
        self.records
            .write(&sandbox)
            .map_err(|source| PodError::Record {
                pod: pod.clone(),
                source,
            })?;
        let captured = self.capture(&sandbox).await;
        let result = match captured {
            Ok(captured) => self.serve(sandbox, captured),
            Err(error) => Err(error),
        };
        if result.is_err() {
            match before {
                Some(before) => self.keep_record(&before.sandbox),
                None => self.forget_record(&pod),
            }
        }
        result
    }

    /// Waits (bounded) until the mesh knows `pod`, and says whether it takes part.
    pub async fn takes_part(&self, pod: &PodName) -> Result<bool, PodError> {
        let mut versions = self.mesh.versions();
        let known = async {
            loop {
                if let Some(workload) = self.mesh.snapshot().workload_by_pod(pod) {
                    return workload.tunnel_protocol == TunnelProtocol::Hbone;
                }
                if versions.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(self.mesh_wait, known)
            .await
            .map_err(|_| PodError::Unknown {
                pod: pod.clone(),
                waited: self.mesh_wait,
            })
    }

    /// Lets go of the pod in the given sandbox, or in whichever it is; `false` if there is none.
    pub async fn release(&self, pod: &PodName, sandbox_id: Option<&str>) -> Result<bool, PodError> {
        let _one_at_a_time = self.change.lock().await;
        let is_meant = |entry: &Enrolled| {
            entry.sandbox.pod == *pod && sandbox_id.is_none_or(|id| id == entry.sandbox.sandbox_id)
        };
        let former: Vec<Enrolled> = self
            .former()
            .iter()
            .filter(|e| is_meant(e))
            .cloned()
            .collect();
        for entry in &former {
            self.release_kernel_state(&entry.sandbox).await?;
            let id = &entry.sandbox.sandbox_id;
            self.former()
                .retain(|former| !is_meant(former) || former.sandbox.sandbox_id != *id);
            tracing::info!(%pod, sandbox = id, "former sandbox released");
        }
        let Some(entry) = self
            .enrolled()
            .get(pod)
            .filter(|entry| is_meant(entry))
            .cloned()
        else {
            return Ok(!former.is_empty());
        };
        self.followers.stop(pod);
        self.proxy.remove_pod(pod);
        self.release_kernel_state(&entry.sandbox).await?;
        self.enrolled().remove(pod);
        self.forget_record(pod);
        tracing::info!(%pod, "released");
        Ok(true)
    }

    /// Takes over what an earlier daemon recorded. A pod that is gone is forgotten; one that can't
    /// be captured stays closed and is reported.
    pub async fn restore(&self) -> Result<(), RecordError> {
        let sandboxes = self.records.all()?;
        match self.redirect.orphans(&sandboxes) {
            Ok(orphans) => {
                for pod in orphans {
                    tracing::error!(
                        pod = pod.as_str(),
                        "a running pod is captured, but its record is lost: it stays closed until it is enrolled again or restarted"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "cannot look for pods whose record is lost"),
        }
        for sandbox in sandboxes {
            let pod = sandbox.pod.clone();
            if !sandbox.netns.exists() {
                tracing::info!(%pod, netns = %sandbox.netns.display(), "pod is gone: forgetting it");
                self.release_gone(&sandbox).await;
                continue;
            }
            if let Err(error) = self.enrol_again(sandbox).await {
                tracing::error!(%pod, %error, "pod of an earlier run can't be captured; it stays closed");
            }
        }
        Ok(())
    }

    /// Releases pods whose network namespace is gone, for which no DEL came.
    pub async fn sweep(&self) {
        let former = self.former().clone();
        for entry in self.list().into_iter().chain(former) {
            if entry.netns.is_alive() {
                continue;
            }
            let pod = &entry.sandbox.pod;
            tracing::warn!(%pod, netns = %entry.sandbox.netns.display(),
                "network namespace is gone without an unenrol: releasing the pod");
            if let Err(error) = self.release(pod, Some(&entry.sandbox.sandbox_id)).await {
                tracing::error!(%error, "release failed; it is tried again");
            }
        }
    }

    /// Lets the pods' capture be as it is from now on.
    pub fn stop_following(&self) {
        self.followers.stop_all();
    }

    pub fn list(&self) -> Vec<Enrolled> {
        self.enrolled().values().cloned().collect()
    }

    /// What the kernel programs of each enrolled pod counted. Some microseconds a pod.
    pub fn verdicts(&self) -> Vec<(PodName, Vec<(Verdict, u64)>)> {
        self.list()
            .into_iter()
            .map(|Enrolled { sandbox, .. }| {
                let counts = self.redirect.verdicts(&sandbox);
                (sandbox.pod, counts)
            })
            .collect()
    }

    /// Whether each enrolled pod is captured, read from kernel state.
    pub async fn capture_states(&self) -> BTreeMap<PodName, CaptureState> {
        let (redirect, entries) = (self.redirect.clone(), self.list());
        run_blocking(move || {
            entries
                .into_iter()
                .map(|Enrolled { sandbox, .. }| (sandbox.pod.clone(), redirect.check(&sandbox)))
                .collect()
        })
        .await
    }

    async fn enrol_again(&self, sandbox: PodSandbox) -> Result<(), PodError> {
        let _one_at_a_time = self.change.lock().await;
        let captured = self.capture(&sandbox).await?;
        self.serve(sandbox, captured)?;
        Ok(())
    }

    async fn capture(&self, sandbox: &PodSandbox) -> Result<CapturedPod, PodError> {
        let (redirect, request) = (self.redirect.clone(), sandbox.clone());
        run_blocking(move || redirect.enrol(&request))
            .await
            .map_err(|source| PodError::Capture {
                pod: sandbox.pod.clone(),
                source,
            })
    }

    fn serve(&self, sandbox: PodSandbox, captured: CapturedPod) -> Result<Vec<IpAddr>, PodError> {
        let CapturedPod {
            addresses,
            sockets,
            listeners,
            follower,
        } = captured;
        let pod = sandbox.pod.clone();
        self.proxy
            .add_pod(
                ProxiedPod {
                    name: pod.clone(),
                    addresses: addresses.clone(),
                    sockets: sockets.clone(),
                },
                listeners,
            )
            .map_err(|source| PodError::Serve {
                pod: pod.clone(),
                source,
            })?;
        let id = PodId::of(&sandbox);
        let before = self.enrolled().insert(
            pod.clone(),
            Enrolled {
                sandbox,
                addresses: addresses.clone(),
                netns: sockets,
            },
        );
        // Under the same ID, what the former had in the kernel is replaced already.
        self.former()
            .extend(before.filter(|before| PodId::of(&before.sandbox) != id));
        self.followers.follow(&pod, follower);
        let addresses = addresses.to_vec();
        tracing::info!(%pod, ?addresses, "enrolled");
        Ok(addresses)
    }

    async fn release_gone(&self, sandbox: &PodSandbox) {
        let (redirect, request) = (self.redirect.clone(), sandbox.clone());
        if let Err(error) = run_blocking(move || redirect.release(&request)).await {
            tracing::warn!(pod = %sandbox.pod, %error, "cannot remove what is left of a pod");
        }
        self.forget_record(&sandbox.pod);
    }

    async fn release_kernel_state(&self, sandbox: &PodSandbox) -> Result<(), PodError> {
        let (redirect, request) = (self.redirect.clone(), sandbox.clone());
        run_blocking(move || redirect.release(&request))
            .await
            .map_err(|source| PodError::Release {
                pod: sandbox.pod.clone(),
                source,
            })
    }

    fn keep_record(&self, sandbox: &PodSandbox) {
        if let Err(error) = self.records.write(sandbox) {
            tracing::error!(pod = %sandbox.pod, %error, "the record names a sandbox that is not captured");
        }
    }

    fn forget_record(&self, pod: &PodName) {
        if let Err(error) = self.records.remove(pod) {
            tracing::error!(%pod, %error, "record stays behind; the next start will look for the pod");
        }
    }

    fn enrolled(&self) -> MutexGuard<'_, BTreeMap<PodName, Enrolled>> {
        // Nothing panics while holding it; were it ever poisoned, the map is still whole.
        self.enrolled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn former(&self) -> MutexGuard<'_, Vec<Enrolled>> {
        // As above.
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kernel work takes milliseconds and must not hold up the control runtime.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
