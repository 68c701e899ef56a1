//! What authenticated peers say of workloads that the mesh state doesn't know, within bounds.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{mesh::Identity, proxy::hbone::baggage::Baggage};

/// How many different ones become label values until the daemon ends. A series is never forgotten,
/// so a peer that says something new each time must not make as many.
const CAPACITY: usize = 1000;

/// A workload in its own words, beside an identity that was proven. For telemetry and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimedWorkload {
    /// The identity's own.
    pub namespace: Arc<str>,
    /// What follows is empty where it isn't said.
    pub workload_name: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster_id: Arc<str>,
}

#[derive(Debug, Default)]
pub struct ClaimedWorkloads(Mutex<HashSet<Arc<ClaimedWorkload>>>);

impl ClaimedWorkload {
    /// `None` if the claim is of another namespace than what was proven.
    pub fn new(identity: &Identity, baggage: Baggage) -> Option<Self> {
        let namespace = identity.namespace();
        if !baggage.namespace.is_empty() && baggage.namespace != *namespace {
            return None;
        }
        Some(Self {
            namespace: namespace.into(),
            workload_name: baggage.workload.into(),
            canonical_service: baggage.service.into(),
            canonical_revision: baggage.version.into(),
            cluster_id: baggage.cluster.into(),
        })
    }
}

impl ClaimedWorkloads {
    /// The claim, shared with those like it, unless there are too many already.
    pub fn admit(&self, claim: ClaimedWorkload) -> Option<Arc<ClaimedWorkload>> {
        // No code that can panic leaves the set half-changed.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&claim) {
            return Some(Arc::clone(known));
        }
        if known.len() >= CAPACITY {
            return None;
        }
        let claim = Arc::new(claim);
        known.insert(Arc::clone(&claim));
        Some(claim)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn claim(namespace: &str, workload: &str) -> Option<ClaimedWorkload> {
        let identity: Identity = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
        let baggage = Baggage {
            namespace: namespace.into(),
            workload: workload.into(),
            ..Baggage::default()
        };
        ClaimedWorkload::new(&identity, baggage)
    }

    #[test]
    fn a_claim_must_be_of_the_namespace_that_was_proven() {
        assert_eq!(&*claim("foo", "a").unwrap().namespace, "foo");
        assert_eq!(&*claim("", "a").unwrap().namespace, "foo");
        assert_eq!(claim("bar", "a"), None);
    }

    #[test]
    fn claims_beyond_the_limit_are_not_taken_and_those_before_go_on() {
        let claims = ClaimedWorkloads::default();
        let admit = |number: usize| claims.admit(claim("foo", &number.to_string()).unwrap());
        assert!((0..CAPACITY).all(|number| admit(number).is_some()));
        assert!(admit(CAPACITY).is_none());
        assert!(Arc::ptr_eq(&admit(7).unwrap(), &admit(7).unwrap()));
    }
}
