//! Looks at intervals whether every enrolled pod is captured, and repairs what was undone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::pods::{Pods, Repair};
use crate::mesh::PodName;

/// Until a pod is looked at again: what the daemon does anyway (it follows a new address, it
/// enrols) is then done.
const SECOND_LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Verification {
    pods: Arc<Pods>,
    /// The pods that could not be captured again, and why.
    uncaptured: Mutex<BTreeMap<PodName, String>>,
    repairs: Family<RepairLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    what: &'static str,
}

impl Verification {
    pub fn new(pods: Arc<Pods>) -> Self {
        Self {
            pods,
            uncaptured: Mutex::default(),
            repairs: Family::default(),
        }
    }

    /// Whose capture it looks at.
    pub fn pods(&self) -> &Arc<Pods> {
        &self.pods
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "ztun_capture_repairs",
            "Enrolled pods that were found not captured and are captured again, by what was undone",
            self.repairs.clone(),
        );
    }

    /// Never ends.
    pub async fn follow(self: Arc<Self>, interval: Duration) {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.verify().await;
        }
    }

    /// The enrolled pods that were not captured when it was last looked, and why.
    pub fn uncaptured(&self) -> BTreeMap<PodName, String> {
        let mut uncaptured = self.lock().clone();
        let enrolled = self.pods.list();
        uncaptured.retain(|pod, _| enrolled.iter().any(|entry| entry.sandbox.pod == *pod));
        uncaptured
    }

    async fn verify(&self) {
        let suspects = self.pods.uncaptured().await;
        if !suspects.is_empty() {
            sleep(SECOND_LOOK).await;
        }
        let mut uncaptured = BTreeMap::new();
        for entry in suspects {
            let pod = entry.sandbox.pod.clone();
            match self.pods.repair(&entry).await {
                Repair::Done { what } => {
                    self.repairs.get_or_create(&RepairLabels { what }).inc();
                }
                Repair::Failed { why } => {
                    tracing::error!(%pod, why, "an enrolled pod is not captured");
                    uncaptured.insert(pod, why);
                }
                Repair::Unneeded => {}
            }
        }
        *self.lock() = uncaptured;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodName, String>> {
        // Nothing panics while holding it.
        self.uncaptured
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
