//! Keeps what is captured in step with what the mesh state says: who takes part and who doesn't.

mod attempts;
pub mod decision;

use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout};

use self::{attempts::Attempts, decision::Task};
use super::{
    pods::{PodError, Pods},
    records::{Origin, Record, Standing},
};
use crate::{
    config::Config,
    mesh::{Mesh, PodName, Snapshot, Workload, workload::Membership as Said},
    redirect::PodSandbox,
};

/// A pod that is just being started is not found a few times; after that it is worth a warning.
const USUAL_FAILURES: u32 = 5;

/// Enrols, releases and finds pods as the mesh state changes.
#[derive(Debug)]
pub struct Membership {
    node: Arc<str>,
    mesh: Arc<Mesh>,
    pods: Arc<Pods>,
    /// How long an enrolment waits for the mesh to know its pod.
    mesh_wait: Duration,
    attempts: Mutex<Attempts>,
}

/// A pod that is to be captured but is not.
#[derive(Clone, Debug)]
pub struct Uncaptured {
    pub pod: PodName,
    pub workload: Option<Arc<Workload>>,
    pub why: String,
}

impl Membership {
    pub fn new(config: &Config, mesh: Arc<Mesh>, pods: Arc<Pods>) -> Self {
        Self {
            node: config.node_name.clone(),
            mesh,
            pods,
            mesh_wait: config.timeouts.mesh_state,
            attempts: Mutex::default(),
        }
    }

    /// Waits (bounded) until the mesh state says whether the pod takes part.
    pub async fn takes_part(&self, sandbox: &PodSandbox) -> Result<bool, PodError> {
        let mut versions = self.mesh.versions();
        let decided = async {
            loop {
                match self.said(sandbox) {
                    Some(Said::Member) => return true,
                    Some(Said::Outside) => return false,
                    Some(Said::Undecided) | None => {}
                }
                if versions.changed().await.is_err() {
                    future::pending::<()>().await;
                }
            }
        };
        timeout(self.mesh_wait, decided).await.map_err(|_| {
            let (pod, waited) = (sandbox.pod.clone(), self.mesh_wait);
            match self.said(sandbox) {
                Some(_) => PodError::Undecided { pod, waited },
                None => PodError::Unknown { pod, waited },
            }
        })
    }

    /// Follows the mesh state; never returns.
    pub async fn follow(self: Arc<Self>) {
        let mut versions = self.mesh.versions();
        loop {
            versions.borrow_and_update();
            self.reconcile().await;
            let next = self.attempts().next();
            let retry = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                _ = versions.changed() => {}
                () = self.pods.news() => {}
                () = retry => {}
            }
        }
    }

    /// What was tried for a pod in vain and is tried again.
    pub fn problem(&self, pod: &PodName) -> Option<String> {
        self.attempts().problem(pod).map(str::to_owned)
    }

    /// The pods of this node that are to be captured but are not.
    pub fn uncaptured(&self, snapshot: &Snapshot) -> Vec<Uncaptured> {
        let (enrolled, known) = (self.pods.list(), self.pods.known_pods());
        let missing = decision::missing(&self.node, snapshot, &enrolled, &known);
        let missing = missing.map(|workload| Uncaptured {
            pod: workload.pod.clone(),
            workload: Some(workload.clone()),
            why: self.why_not_found(&workload.pod),
        });
        let known = known.iter().filter_map(|record| {
            let sandbox = &record.sandbox;
            let workload = decision::workload_of(&self.node, snapshot, sandbox, None);
            let is_member = workload.is_some_and(|it| it.membership == Said::Member);
            (is_member || record.standing == Standing::Enrolled).then(|| Uncaptured {
                pod: sandbox.pod.clone(),
                workload: workload.cloned(),
                why: self.why_not_captured(record),
            })
        });
        known.chain(missing).collect()
    }

    async fn reconcile(&self) {
        if !self.mesh.synced() {
            return;
        }
        let snapshot = self.mesh.snapshot();
        let tasks = decision::tasks(
            &self.node,
            &snapshot,
            &self.pods.list(),
            &self.pods.known_pods(),
        );
        self.attempts().retain(|pod| tasks.contains_key(pod));
        for (pod, task) in tasks {
            let workload = snapshot.workload_by_pod(&pod);
            if !self.attempts().is_due(&pod, workload, Instant::now()) {
                continue;
            }
            let result = match &task {
                Task::Enrol(record) => self.pods.enrol_known(record).await,
                Task::Release(entry) => self.pods.dismiss(entry).await,
                Task::Find(workload) => self.pods.enrol_found(workload).await,
            };
            match result {
                Ok(()) => self.attempts().succeeded(&pod),
                Err(error) => self.failed(&pod, workload, &error),
            }
        }
    }

    fn failed(&self, pod: &PodName, workload: Option<&Arc<Workload>>, error: &PodError) {
        let (problem, now) = (error.to_string(), Instant::now());
        let failures = self.attempts().failed(pod, workload, problem, now);
        let is_usual = matches!(error, PodError::Find { source, .. } if source.is_usual());
        if is_usual && failures != USUAL_FAILURES {
            tracing::debug!(%error, failures, "a pod that takes part is not enrolled yet");
        } else {
            tracing::warn!(%error, failures, "the mesh state's word about a pod can't be followed; it is tried again");
        }
    }

    fn why_not_found(&self, pod: &PodName) -> String {
        let problem = self.problem(pod);
        let problem = problem.as_deref().unwrap_or("it is being looked for");
        format!("in the mesh and on this node, but not enrolled: {problem}")
    }

    fn why_not_captured(&self, record: &Record) -> String {
        let problem = self.problem(&record.sandbox.pod);
        match (record.standing, record.origin, problem) {
            (Standing::Enrolled, _, problem) => format!(
                "closed since an earlier daemon captured it: {}",
                problem.as_deref().unwrap_or("it is being taken over")
            ),
            (Standing::Known, Origin::Asked, _) => {
                "in the mesh, but let go by hand: `ztun enrol` captures it again".to_owned()
            }
            (Standing::Known, _, problem) => format!(
                "in the mesh by now, but not enrolled yet: {}",
                problem.as_deref().unwrap_or("it is about to be")
            ),
        }
    }

    fn said(&self, sandbox: &PodSandbox) -> Option<Said> {
        let snapshot = self.mesh.snapshot();
        let workload = decision::workload_of(&self.node, &snapshot, sandbox, None)?;
        Some(workload.membership)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        // Nothing panics while holding it; were it ever poisoned, the map is still whole.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
