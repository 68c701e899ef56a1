//! Inbound handshakes under way: bounded, and the oldest gives way to the newest.
//!
//! A peer that means it is done in milliseconds, so what is oldest among many is most likely one
//! that never will be. Refusing the newest instead would let slow peers keep everybody out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Handshakes {
    limit: usize,
    pending: Mutex<Pending>,
}

/// One handshake's place; dropped when it is over.
#[derive(Debug)]
pub struct Handshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    evicted: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    oldest_first: VecDeque<(u64, CancellationToken)>,
}

impl Handshakes {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            pending: Mutex::default(),
        })
    }

    pub fn begin(self: &Arc<Self>) -> Handshake {
        let evicted = CancellationToken::new();
        let mut pending = self.pending();
        if pending.oldest_first.len() >= self.limit
            && let Some((_, oldest)) = pending.oldest_first.pop_front()
        {
            oldest.cancel();
        }
        let number = pending.next;
        pending.next += 1;
        pending.oldest_first.push_back((number, evicted.clone()));
        drop(pending);
        Handshake {
            handshakes: Arc::clone(self),
            number,
            evicted,
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // No code that can panic leaves the queue half-changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handshake {
    /// Resolves when the place is needed for another.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut pending = self.handshakes.pending();
        let place = pending
            .oldest_first
            .binary_search_by_key(&self.number, |(number, _)| *number);
        if let Ok(place) = place {
            pending.oldest_first.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_limit_the_oldest_gives_way() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.begin();
        let second = handshakes.begin();
        assert!(!first.evicted.is_cancelled());
        let third = handshakes.begin();
        assert!(first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled());
        assert!(!third.evicted.is_cancelled());
    }

    #[test]
    fn one_that_is_over_frees_its_place() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.begin();
        drop(handshakes.begin());
        drop(first);
        let second = handshakes.begin();
        let _third = handshakes.begin();
        assert!(!second.evicted.is_cancelled());
        assert_eq!(handshakes.pending().oldest_first.len(), 2);
    }
}
