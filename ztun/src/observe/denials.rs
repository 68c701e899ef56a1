//! Keeps the lines about identical denials down to a few: a refused client tries again and again.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::flow::Flow;
use crate::mesh::{Denial, Identity};

const INTERVAL: Duration = Duration::from_secs(10);

/// How many different denials are told apart at a time.
const CAPACITY: usize = 1024;

#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<Key, State>>);

/// What makes two denials identical. Source ports differ with every try.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    policy: Arc<str>,
    reason: Arc<str>,
    source: (Option<Identity>, IpAddr),
    destination: SocketAddr,
}

#[derive(Debug)]
struct State {
    last: Instant,
    suppressed: u64,
}

impl Denials {
    /// `Some(how many like it were suppressed since its last line)` if a line may be written at `now`.
    pub fn admit(&self, flow: &Flow, denial: &Denial, now: Instant) -> Option<u64> {
        let key = Key {
            policy: Arc::clone(&denial.policy),
            reason: Arc::clone(&denial.reason),
            source: (flow.source.identity.clone(), flow.source.address.ip()),
            destination: flow.destination.address,
        };
        // No code that can panic leaves the map half-changed.
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get_mut(&key) {
            if now < state.last + INTERVAL {
                state.suppressed += 1;
                return None;
            }
            state.last = now;
            return Some(std::mem::take(&mut state.suppressed));
        }
        if states.len() >= CAPACITY {
            states.retain(|_, state| now < state.last + INTERVAL);
        }
        if states.len() >= CAPACITY {
            // So many kinds at once: the counters have them.
            return None;
        }
        let state = State {
            last: now,
            suppressed: 0,
        };
        states.insert(key, state);
        Some(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        mesh::PodName,
        observe::{Direction, Party, Security},
    };

    fn flow(source: &str) -> Flow {
        Flow {
            pod: PodName::new("foo", "a"),
            direction: Direction::Inbound,
            source: Party::unknown(source.parse().unwrap()),
            destination: Party::unknown("10.0.0.1:80".parse().unwrap()),
            hbone_address: None,
            service: None,
            security: Security::Plaintext,
        }
    }

    fn denial(policy: &str) -> Denial {
        Denial {
            policy: policy.into(),
            reason: "it says so".into(),
            hint: "ask it".into(),
        }
    }

    #[test]
    fn identical_denials_are_counted_instead_of_written() {
        let denials = Denials::default();
        let start = Instant::now();
        assert_eq!(
            denials.admit(&flow("10.0.0.2:1"), &denial("p"), start),
            Some(0)
        );
        for port in 2..5 {
            let again = flow(&format!("10.0.0.2:{port}"));
            assert_eq!(
                denials.admit(&again, &denial("p"), start + INTERVAL / 2),
                None
            );
        }
        let later = start + INTERVAL;
        assert_eq!(
            denials.admit(&flow("10.0.0.2:9"), &denial("p"), later),
            Some(3)
        );
    }

    #[test]
    fn another_client_or_policy_has_a_line_of_its_own() {
        let denials = Denials::default();
        let now = Instant::now();
        for (source, policy) in [
            ("10.0.0.2:1", "p"),
            ("10.0.0.3:1", "p"),
            ("10.0.0.2:1", "q"),
        ] {
            let admitted = denials.admit(&flow(source), &denial(policy), now);
            assert_eq!(admitted, Some(0), "{source} {policy}");
        }
    }

    #[test]
    fn a_flood_of_different_denials_takes_bounded_memory_and_passes() {
        let denials = Denials::default();
        let start = Instant::now();
        let lines = (0..3000).filter(|number| {
            let policy = denial(&number.to_string());
            denials.admit(&flow("10.0.0.2:1"), &policy, start).is_some()
        });
        assert_eq!(lines.count(), CAPACITY);
        let later = start + INTERVAL;
        assert_eq!(
            denials.admit(&flow("10.0.0.2:1"), &denial("new"), later),
            Some(0)
        );
    }
}
