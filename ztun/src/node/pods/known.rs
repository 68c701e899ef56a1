//! Pods that are on this node but not captured, and how they pass between the two.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{Enrolled, Origin, PodError, Pods, Record, Standing, run_blocking};
use crate::{
    mesh::{PodName, Workload},
    redirect::{PodId, PodSandbox},
};

impl Pods {
    /// Keeps in mind a sandbox that a container runtime told of and that takes no part.
    pub async fn remember(&self, sandbox: PodSandbox) -> Result<(), PodError> {
        let _one_at_a_time = self.changing().await?;
        let pod = sandbox.pod.clone();
        let before = self.enrolled().get(&pod).cloned();
        if let Some(before) = before {
            if before.sandbox.sandbox_id == sandbox.sandbox_id {
                // The runtime asks twice; who enrolled the pod decides.
                return Ok(());
            }
            if PodId::of(&before.sandbox) == PodId::of(&sandbox) {
                // They share the cgroup, where the former's programs would refuse for both.
                self.set_free(&before).await?;
            } else {
                self.followers.stop(&pod);
                self.proxy.remove_pod(&pod);
                self.enrolled().remove(&pod);
                self.former().push(before);
            }
        }
        let record = Record {
            sandbox,
            origin: Origin::Runtime,
            standing: Standing::Known,
        };
        self.records
            .write(&record)
            .map_err(|source| PodError::Record {
                pod: pod.clone(),
                source,
            })?;
        self.known().insert(pod, record);
        self.news.notify_one();
        Ok(())
    }

    /// Captures a known pod, unless it has changed since.
    pub async fn enrol_known(&self, record: &Record) -> Result<(), PodError> {
        let _one_at_a_time = self.changing().await?;
        let sandbox = &record.sandbox;
        if self.known().get(&sandbox.pod) == Some(record) {
            self.enrol_alone(sandbox.clone(), record.origin).await?;
        }
        Ok(())
    }

    /// Finds a running pod that nobody told of, and captures it.
    pub async fn enrol_found(&self, workload: &Arc<Workload>) -> Result<(), PodError> {
        let (redirect, wanted) = (self.redirect.clone(), workload.clone());
        let found =
            run_blocking(move || redirect.find(&wanted.pod, &wanted.pod_uid, &wanted.addresses));
        let sandbox = found.await.map_err(|source| PodError::Find {
            pod: workload.pod.clone(),
            source,
        })?;
        let _one_at_a_time = self.changing().await?;
        let id = PodId::of(&sandbox);
        let before = self.record(&sandbox.pod);
        if before.is_none_or(|before| PodId::of(&before.sandbox) != id) {
            tracing::info!(pod = %sandbox.pod, netns = %sandbox.netns.display(), "found a pod that nobody enrolled");
            self.enrol_alone(sandbox, Origin::Found).await?;
        }
        Ok(())
    }

    /// Lets go of an enrolled pod that takes no part any more, unless it has changed since.
    pub async fn dismiss(&self, entry: &Enrolled) -> Result<(), PodError> {
        let _one_at_a_time = self.changing().await?;
        let sandbox = entry.sandbox.clone();
        let pod = sandbox.pod.clone();
        let is_same = |now: &Enrolled| now.sandbox == sandbox && now.origin == entry.origin;
        if !self.enrolled().get(&pod).is_some_and(is_same) {
            return Ok(());
        }
        self.set_free(entry).await?;
        if entry.origin == Origin::Found {
            self.forget_record(&pod);
        } else {
            self.hold(sandbox, entry.origin);
        }
        tracing::info!(%pod, "released: the mesh state says that it takes no part");
        Ok(())
    }

    /// The pods that are not captured.
    pub fn known_pods(&self) -> Vec<Record> {
        self.known().values().cloned().collect()
    }

    /// Returns when a pod has become known since the last call.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// How the pod of this name stands, as its record says it.
    pub(super) fn record(&self, pod: &PodName) -> Option<Record> {
        let enrolled = self.enrolled().get(pod).map(Enrolled::record);
        enrolled.or_else(|| self.known().get(pod).cloned())
    }

    /// [`Self::release`] for a pod that is not captured; `true` if it was to be.
    pub(super) async fn release_known(
        &self,
        pod: &PodName,
        sandbox_id: Option<&str>,
    ) -> Result<bool, PodError> {
        let Some(record) = self.known().get(pod).cloned() else {
            return Ok(false);
        };
        let was_enrolled = record.standing == Standing::Enrolled;
        match sandbox_id {
            Some(id) if id != record.sandbox.sandbox_id => return Ok(false),
            None if !was_enrolled => return Ok(false),
            _ => {}
        }
        if was_enrolled {
            self.release_kernel_state(&record.sandbox).await?;
        }
        if sandbox_id.is_some() {
            self.known().remove(pod);
            self.forget_record(pod);
            tracing::info!(%pod, "forgotten");
        } else {
            self.let_go_by_hand(record.sandbox);
        }
        Ok(was_enrolled)
    }

    /// Keeps a pod free that an operator has let go, whatever its labels say.
    pub(super) fn let_go_by_hand(&self, sandbox: PodSandbox) {
        self.hold(sandbox, Origin::Asked);
    }

    /// Forgets known pods that are gone without a word.
    pub(super) async fn sweep_known(&self) {
        for record in self.known_pods() {
            if self.redirect.whereabouts(&record.sandbox).is_some() {
                continue;
            }
            let Ok(_one_at_a_time) = self.changing().await else {
                return;
            };
            let pod = &record.sandbox.pod;
            if self.known().get(pod) == Some(&record) {
                tracing::info!(%pod, netns = %record.sandbox.netns.display(), "pod is gone: forgetting it");
                self.known().remove(pod);
                self.release_gone(&record.sandbox).await;
            }
        }
    }

    /// Whether an enrolled pod whose path leads nowhere still runs: a path by a process ends with
    /// that process. Then it is captured anew by another path.
    pub(super) async fn keep_by_another_path(&self, entry: &Enrolled) -> bool {
        let former = &entry.sandbox;
        let path = self.redirect.whereabouts(former);
        let Some(netns) = path.filter(|path| *path != former.netns) else {
            return false;
        };
        let Ok(_one_at_a_time) = self.changing().await else {
            return true;
        };
        if self.record(&former.pod) == Some(entry.record()) {
            let sandbox = PodSandbox {
                netns,
                ..former.clone()
            };
            if let Err(error) = self.enrol_alone(sandbox, entry.origin).await {
                tracing::warn!(%error, "cannot capture by another path; it is tried again");
            }
        }
        true
    }

    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<PodName, Record>> {
        // Nothing panics while holding it; were it ever poisoned, the map is still whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, sandbox: PodSandbox, origin: Origin) {
        let record = Record {
            sandbox,
            origin,
            standing: Standing::Known,
        };
        self.keep_record(&record);
        self.known().insert(record.sandbox.pod.clone(), record);
        self.news.notify_one();
    }
}

impl Enrolled {
    fn record(&self) -> Record {
        Record {
            sandbox: self.sandbox.clone(),
            origin: self.origin,
            standing: Standing::Enrolled,
        }
    }
}
