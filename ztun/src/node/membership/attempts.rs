//! What was tried for pods in vain, and when it is tried again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::mesh::{PodName, Workload};

/// The pause after the first failure; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Attempts(BTreeMap<PodName, Attempt>);

#[derive(Debug)]
struct Attempt {
    failures: u32,
    next: Instant,
    problem: String,
    /// What the mesh state said at that time.
    workload: Option<Arc<Workload>>,
}

impl Attempts {
    /// Whether it is time to try. At once, if the mesh state says something else than the last time.
    pub fn is_due(&self, pod: &PodName, workload: Option<&Arc<Workload>>, now: Instant) -> bool {
        self.0
            .get(pod)
            .is_none_or(|attempt| attempt.next <= now || attempt.workload.as_ref() != workload)
    }

    /// Notes a failure; answers how many there were in a row.
    pub fn failed(
        &mut self,
        pod: &PodName,
        workload: Option<&Arc<Workload>>,
        problem: String,
        now: Instant,
    ) -> u32 {
        let before = self.0.get(pod).map_or(0, |attempt| attempt.failures);
        let failures = before.saturating_add(1);
        let attempt = Attempt {
            failures,
            next: now + pause(failures),
            problem,
            workload: workload.cloned(),
        };
        self.0.insert(pod.clone(), attempt);
        failures
    }

    /// Forgets the pods for which there is nothing to do any more.
    pub fn retain(&mut self, has_task: impl Fn(&PodName) -> bool) {
        self.0.retain(|pod, _| has_task(pod));
    }

    pub fn succeeded(&mut self, pod: &PodName) {
        self.0.remove(pod);
    }

    pub fn problem(&self, pod: &PodName) -> Option<&str> {
        Some(&self.0.get(pod)?.problem)
    }

    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|attempt| attempt.next).min()
    }
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::{arc, workload};

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<_> = [1, 2, 3, 40].map(|n| pause(n).as_millis()).into();
        assert_eq!(pauses, [500, 1000, 2000, 30_000]);
    }

    #[test]
    fn a_failure_is_tried_again_after_its_pause_or_when_the_mesh_says_something_else() {
        let (pod, now) = (PodName::new("foo", "a"), Instant::now());
        let (before, after) = (arc(workload("a", &[])), arc(workload("a", &["10.0.0.1"])));
        let mut attempts = Attempts::default();
        assert!(attempts.is_due(&pod, Some(&before), now));
        assert_eq!(attempts.failed(&pod, Some(&before), "no".into(), now), 1);
        assert!(!attempts.is_due(&pod, Some(&before), now));
        assert!(attempts.is_due(&pod, Some(&after), now));
        assert!(attempts.is_due(&pod, Some(&before), now + PAUSE_FIRST));
        assert_eq!(attempts.failed(&pod, Some(&before), "no".into(), now), 2);
        assert!(!attempts.is_due(&pod, Some(&before), now + PAUSE_FIRST));
        assert_eq!(attempts.problem(&pod), Some("no"));
        attempts.retain(|_| false);
        assert_eq!((attempts.problem(&pod), attempts.next()), (None, None));
    }
}
