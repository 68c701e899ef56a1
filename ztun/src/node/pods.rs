//! The pods that this node captures: enrolment, release, and what keeps both true over time.

mod error;
mod handing;
mod known;
mod repair;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ztun_common::Verdict;

pub use self::{error::PodError, handing::Handing, repair::Repair};
use super::{
    addresses::Followers,
    handover::HandedPod,
    records::{Origin, Record, RecordError, Records, Standing},
};
use crate::{
    mesh::PodName,
    proxy::{PodAddresses, PodListeners, ProxiedPod, Proxy},
    redirect::{AddressFollower, CaptureState, CapturedPod, PodId, PodNetns, PodSandbox, Redirect},
};

/// Enrols and releases pods; one change at a time, readers never wait for one.
#[derive(Debug)]
pub struct Pods {
    redirect: Arc<Redirect>,
    records: Records,
    proxy: Arc<Proxy>,
    enrolled: Mutex<BTreeMap<PodName, Enrolled>>,
    /// Sandboxes whose pod came back in another one. They have no listeners, so they stay closed
    /// until their own DEL, or their end.
    former: Mutex<Vec<Enrolled>>,
    /// Pods that are not captured: they take no part, or an earlier daemon's could not be taken over.
    known: Mutex<BTreeMap<PodName, Record>>,
    /// Told when a pod is known newly.
    news: tokio::sync::Notify,
    followers: Followers,
    /// Whether the pods' capture is left as it is from now on.
    settled: AtomicBool,
    /// Held while a pod is enrolled, released, or handed over; true once all are a successor's.
    change: tokio::sync::Mutex<bool>,
}

/// One captured pod, as status shows it.
#[derive(Clone, Debug)]
pub struct Enrolled {
    pub sandbox: PodSandbox,
    pub origin: Origin,
    pub addresses: PodAddresses,
    pub netns: Arc<PodNetns>,
}

impl Pods {
    pub fn new(redirect: Arc<Redirect>, records: Records, proxy: Arc<Proxy>) -> Self {
        Self {
            followers: Followers::new(redirect.clone(), proxy.clone()),
            redirect,
            records,
            proxy,
            enrolled: Mutex::default(),
            former: Mutex::default(),
            known: Mutex::default(),
            news: tokio::sync::Notify::default(),
            settled: AtomicBool::new(false),
            change: tokio::sync::Mutex::default(),
        }
    }

    /// Captures the pod; when this returns, its next connection is captured or refused.
    pub async fn enrol(
        &self,
        sandbox: PodSandbox,
        origin: Origin,
    ) -> Result<Vec<IpAddr>, PodError> {
        let _one_at_a_time = self.changing().await?;
        self.enrol_alone(sandbox, origin).await
    }

    /// As [`Self::enrol`], for a caller that holds `change`.
    async fn enrol_alone(
        &self,
        sandbox: PodSandbox,
        origin: Origin,
    ) -> Result<Vec<IpAddr>, PodError> {
        let pod = sandbox.pod.clone();
        let before = self.record(&pod);
        let record = Record {
            sandbox: sandbox.clone(),
            origin,
            standing: Standing::Enrolled,
        };
        self.records
            .write(&record)
            .map_err(|source| PodError::Record {
                pod: pod.clone(),
                source,
            })?;
        let captured = self.capture(&sandbox).await;
        let result = match captured {
            Ok(captured) => self
                .serve(sandbox, origin, captured)
                .map(|(addresses, follower)| {
                    self.followers.follow(&pod, follower);
                    addresses
                }),
            Err(error) => Err(error),
        };
        match (&result, before) {
            (Ok(_), _) => drop(self.known().remove(&pod)),
            (Err(_), Some(before)) => self.keep_record(&before),
            (Err(_), None) => self.forget_record(&pod),
        }
        result
    }

    /// Lets go of the pod in the given sandbox, or in whichever it is; `false` if it isn't enrolled.
    ///
    /// The given sandbox is at its end and forgotten. Without one it runs on, and stays free
    /// whatever its labels say.
    pub async fn release(&self, pod: &PodName, sandbox_id: Option<&str>) -> Result<bool, PodError> {
        let _one_at_a_time = self.changing().await?;
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
            let was_enrolled = self.release_known(pod, sandbox_id).await?;
            return Ok(was_enrolled || !former.is_empty());
        };
        self.set_free(&entry).await?;
        match sandbox_id {
            Some(_) => self.forget_record(pod),
            None => self.let_go_by_hand(entry.sandbox),
        }
        tracing::info!(%pod, "released");
        Ok(true)
    }

    /// Takes over what an earlier daemon recorded. A pod that is gone is forgotten; one that can't
    /// be captured stays closed and is reported.
    ///
    /// `handed` is what a daemon that ran until now has handed over.
    pub async fn restore(&self, handed: Vec<(HandedPod, PodListeners)>) -> Result<(), RecordError> {
        let mut records = self.records.all()?;
        let mut listeners = self.inherit(handed, &mut records);
        let captured = records
            .iter()
            .filter(|it| it.standing == Standing::Enrolled)
            .map(|record| record.sandbox.clone());
        let former: Vec<_> = self.former().iter().map(|it| it.sandbox.clone()).collect();
        let captured: Vec<_> = captured.chain(former).collect();
        match self.redirect.orphans(&captured) {
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
        let mut followers = Vec::new();
        for mut record in records {
            let pod = record.sandbox.pod.clone();
            let Some(path) = self.redirect.whereabouts(&record.sandbox) else {
                tracing::info!(%pod, netns = %record.sandbox.netns.display(), "pod is gone: forgetting it");
                self.release_gone(&record.sandbox).await;
                continue;
            };
            if record.sandbox.netns != path {
                record.sandbox.netns = path;
                self.keep_record(&record);
            }
            self.known().insert(pod.clone(), record.clone());
            if record.standing != Standing::Enrolled {
                continue;
            }
            let listeners = listeners.remove(&pod).unwrap_or_default();
            match self.take_over(record, listeners).await {
                Ok(follower) => followers.push((pod, follower)),
                Err(error) => {
                    tracing::error!(%pod, %error, "pod of an earlier run can't be captured yet; it stays closed");
                }
            }
        }
        // To catch up takes longer than to take over: no pod waits for another's.
        for (pod, follower) in followers {
            self.followers.follow(&pod, follower);
        }
        Ok(())
    }

    /// Captures a pod whose record says that it is captured.
    async fn take_over(
        &self,
        record: Record,
        listeners: PodListeners,
    ) -> Result<AddressFollower, PodError> {
        let _one_at_a_time = self.changing().await?;
        let Record {
            sandbox, origin, ..
        } = record;
        let (redirect, request) = (self.redirect.clone(), sandbox.clone());
        let captured = run_blocking(move || redirect.take_over(&request, listeners));
        let captured = captured.await.map_err(|source| PodError::Capture {
            pod: sandbox.pod.clone(),
            source,
        })?;
        let pod = sandbox.pod.clone();
        let (_, follower) = self.serve(sandbox, origin, captured)?;
        self.known().remove(&pod);
        Ok(follower)
    }

    /// Releases pods whose network namespace is gone, for which no DEL came.
    pub async fn sweep(&self) {
        let former = self.former().clone();
        for entry in self.list().into_iter().chain(former) {
            if entry.netns.is_alive() || self.keep_by_another_path(&entry).await {
                continue;
            }
            let pod = &entry.sandbox.pod;
            tracing::warn!(%pod, netns = %entry.sandbox.netns.display(),
                "network namespace is gone without an unenrol: releasing the pod");
            if let Err(error) = self.release(pod, Some(&entry.sandbox.sandbox_id)).await {
                tracing::error!(%error, "release failed; it is tried again");
            }
        }
        self.sweep_known().await;
    }

    /// For whoever changes which pods are captured; nobody does after a hand-over.
    async fn changing(&self) -> Result<tokio::sync::MutexGuard<'_, bool>, PodError> {
        let is_handed_over = self.change.lock().await;
        if *is_handed_over {
            return Err(PodError::HandedOver);
        }
        Ok(is_handed_over)
    }

    /// Lets the pods' capture be as it is from now on.
    pub fn stop_following(&self) {
        self.settled.store(true, Ordering::Relaxed);
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

    /// Whether each enrolled pod is captured, read from kernel state by `look`.
    pub async fn capture_states(
        &self,
        look: fn(&Redirect, &PodSandbox) -> CaptureState,
    ) -> BTreeMap<PodName, CaptureState> {
        let (redirect, entries) = (self.redirect.clone(), self.list());
        run_blocking(move || {
            entries
                .into_iter()
                .map(|Enrolled { sandbox, .. }| (sandbox.pod.clone(), look(&redirect, &sandbox)))
                .collect()
        })
        .await
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

    fn serve(
        &self,
        sandbox: PodSandbox,
        origin: Origin,
        captured: CapturedPod,
    ) -> Result<(Vec<IpAddr>, AddressFollower), PodError> {
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
                origin,
                addresses: addresses.clone(),
                netns: sockets,
            },
        );
        // Under the same ID, what the former had in the kernel is replaced already.
        self.former()
            .extend(before.filter(|before| PodId::of(&before.sandbox) != id));
        let addresses = addresses.to_vec();
        tracing::info!(%pod, ?addresses, "enrolled");
        Ok((addresses, follower))
    }

    /// For a caller that holds `change`.
    async fn set_free(&self, entry: &Enrolled) -> Result<(), PodError> {
        let pod = &entry.sandbox.pod;
        self.followers.stop(pod);
        self.proxy.remove_pod(pod);
        self.release_kernel_state(&entry.sandbox).await?;
        self.enrolled().remove(pod);
        Ok(())
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

    fn keep_record(&self, record: &Record) {
        if let Err(error) = self.records.write(record) {
            tracing::error!(pod = %record.sandbox.pod, %error, "the record on disk does not say how the pod stands");
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
