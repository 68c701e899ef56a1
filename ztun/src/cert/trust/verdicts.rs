//! Chains that one bundle has verified already.
//!
//! What makes this safe is written down in docs/decisions.md.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::bundle::{Purpose, Verified};
use crate::cert::x509;

/// More than a node has peers. An entry is some 200 bytes.
pub(super) const CAPACITY: usize = 4096;

/// SHA-256 of everything that the verdict depends on, but for the bundle, whose cache this is,
/// and the time, which is asked for each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainKey([u8; 32]);

#[derive(Debug, Default)]
pub(super) struct Verdicts(RwLock<HashMap<ChainKey, Arc<Verified>>>);

impl ChainKey {
    pub(super) fn new(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
    ) -> Self {
        let purpose: &[u8] = match purpose {
            Purpose::Server => b"server",
            Purpose::Client => b"client",
        };
        // A certificate is DER and so says its own length: no other chain has the same bytes.
        let certificates = [leaf].into_iter().chain(intermediates).map(|der| &**der);
        Self(x509::sha256([purpose].into_iter().chain(certificates)))
    }
}

impl Verdicts {
    /// Only while every certificate of the chain is valid.
    pub(super) fn get(&self, key: &ChainKey, now: OffsetDateTime) -> Option<Arc<Verified>> {
        let verdicts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let verified = verdicts.get(key)?;
        verified.is_valid_at(now).then(|| Arc::clone(verified))
    }

    pub(super) fn insert(&self, key: ChainKey, verified: Arc<Verified>, now: OffsetDateTime) {
        let mut verdicts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= CAPACITY {
            verdicts.retain(|_, verified| verified.is_valid_at(now));
        }
        // Somebody with a certificate can make chains at will, by what goes with it: then it is
        // cheaper to verify all anew than to tell the useful ones.
        if verdicts.len() >= CAPACITY {
            verdicts.clear();
        }
        verdicts.insert(key, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
