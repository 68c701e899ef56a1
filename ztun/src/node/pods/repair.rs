//! Finding enrolled pods whose capture was undone, and capturing them again.

use std::{sync::atomic::Ordering, time::Instant};

use super::{Enrolled, Pods, run_blocking};
use crate::redirect::{Gap, ReattachError, Remedy};

/// What became of a pod that was found not captured.
#[derive(Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is captured by now, or was let go.
    Unneeded,
    /// It is captured again.
    Done {
        /// What was wrong, in one word.
        what: &'static str,
    },
    Failed {
        why: String,
    },
}

impl Pods {
    /// Those of the enrolled pods that the kernel does not capture at this moment.
    pub async fn uncaptured(&self) -> Vec<Enrolled> {
        let (redirect, mut entries) = (self.redirect.clone(), self.list());
        run_blocking(move || {
            let (pods, started) = (entries.len(), Instant::now());
            entries.retain(|entry| redirect.inspect(&entry.sandbox).is_err());
            let took = started.elapsed();
            tracing::debug!(
                pods,
                suspects = entries.len(),
                ?took,
                "looked whether pods are captured"
            );
            entries
        })
        .await
    }

    /// Captures an enrolled pod again if that is still due. One that was let go stays so.
    pub async fn repair(&self, entry: &Enrolled) -> Repair {
        // What a successor has taken over is its own to repair.
        let Ok(_one_at_a_time) = self.changing().await else {
            return Repair::Unneeded;
        };
        let pod = &entry.sandbox.pod;
        let is_same = |now: &Enrolled| now.sandbox == entry.sandbox;
        if self.settled.load(Ordering::Relaxed) || !self.enrolled().get(pod).is_some_and(is_same) {
            return Repair::Unneeded;
        }
        if !entry.netns.is_alive() {
            // The pod has ended, or the sweep finds another path to it.
            return Repair::Unneeded;
        }
        let Err(gap) = self.inspect(entry).await else {
            return Repair::Unneeded;
        };
        let Some(remedy) = gap.remedy() else {
            return Repair::Failed {
                why: gap.to_string(),
            };
        };
        tracing::warn!(%pod, why = %gap, "an enrolled pod is not captured: repairing that");
        self.apply(remedy, entry).await;
        match self.inspect(entry).await {
            Ok(()) => {
                let what = gap.what();
                tracing::info!(%pod, what, "the pod is captured again");
                Repair::Done { what }
            }
            Err(gap) => Repair::Failed {
                why: gap.to_string(),
            },
        }
    }

    /// For a caller that holds `change`. What goes wrong is logged; whether it helped, the kernel says.
    async fn apply(&self, remedy: Remedy, entry: &Enrolled) {
        let pod = &entry.sandbox.pod;
        let anew = match remedy {
            Remedy::CatchUp => {
                self.followers.catch_up(pod).await;
                false
            }
            Remedy::Reattach => match self.reattach(entry).await {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!(%pod, %error, "cannot attach the programs again: capturing the pod anew");
                    true
                }
            },
            Remedy::CaptureAnew => true,
        };
        if anew && let Err(error) = self.enrol_alone(entry.sandbox.clone(), entry.origin).await {
            tracing::error!(%error, "cannot capture the pod anew");
        }
    }

    async fn reattach(&self, entry: &Enrolled) -> Result<(), ReattachError> {
        let (redirect, sandbox) = (self.redirect.clone(), entry.sandbox.clone());
        run_blocking(move || redirect.reattach(&sandbox)).await
    }

    async fn inspect(&self, entry: &Enrolled) -> Result<(), Gap> {
        let (redirect, sandbox) = (self.redirect.clone(), entry.sandbox.clone());
        run_blocking(move || redirect.inspect(&sandbox)).await
    }
}
