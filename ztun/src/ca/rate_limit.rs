//! How often a node may ask: a token bucket for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::RateLimits;

/// Buckets of so many nodes are kept before full ones, which say nothing, are let go.
const KEPT: usize = 10_000;

#[derive(Debug)]
pub struct NodeRates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl NodeRates {
    pub fn new(limits: RateLimits) -> Self {
        // Rates past 2^32 limit nothing.
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        Self {
            per_second: number(limits.per_second.get()),
            burst: number(limits.burst.get()),
            buckets: Mutex::default(),
        }
    }

    /// Takes one of `node`'s tokens, or says when there will be one.
    pub fn admit(&self, node: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEPT {
            buckets.retain(|_, bucket| self.filled(*bucket, now).tokens < self.burst);
        }
        let full = Bucket {
            tokens: self.burst,
            at: now,
        };
        let bucket = buckets.entry(Arc::clone(node)).or_insert(full);
        *bucket = self.filled(*bucket, now);
        if bucket.tokens < 1.0 {
            let missing = (1.0 - bucket.tokens) / self.per_second;
            return Err(Duration::from_secs_f64(missing));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> Bucket {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        Bucket {
            tokens: (bucket.tokens + passed * self.per_second).min(self.burst),
            at: now,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rates(per_second: usize, burst: usize) -> NodeRates {
        NodeRates::new(RateLimits {
            per_second: per_second.try_into().unwrap(),
            burst: burst.try_into().unwrap(),
        })
    }

    #[test]
    fn a_burst_passes_and_then_only_what_the_rate_refills() {
        let (rates, node, start) = (rates(2, 3), "a".into(), Instant::now());
        for _ in 0..3 {
            assert_eq!(rates.admit(&node, start), Ok(()));
        }
        assert_eq!(
            rates.admit(&node, start),
            Err(Duration::from_millis(500)),
            "the next token comes after half a second"
        );
        let later = start + Duration::from_millis(500);
        assert_eq!(rates.admit(&node, later), Ok(()));
        assert!(rates.admit(&node, later).is_err());
    }

    #[test]
    fn a_rest_refills_no_more_than_the_burst() {
        let (rates, node, start) = (rates(2, 3), "a".into(), Instant::now());
        rates.admit(&node, start).unwrap();
        let later = start + Duration::from_hours(1);
        let admitted = (0..10).filter(|_| rates.admit(&node, later).is_ok());
        assert_eq!(admitted.count(), 3);
    }

    #[test]
    fn nodes_do_not_share_a_bucket() {
        let (rates, start) = (rates(1, 1), Instant::now());
        rates.admit(&"a".into(), start).unwrap();
        assert!(rates.admit(&"a".into(), start).is_err());
        rates.admit(&"b".into(), start).unwrap();
    }

    #[test]
    fn buckets_that_say_nothing_are_let_go() {
        let (rates, start) = (rates(1, 1), Instant::now());
        for node in 0..KEPT {
            rates.admit(&format!("n{node}").into(), start).unwrap();
        }
        let later = start + Duration::from_secs(1);
        rates.admit(&"one-more".into(), later).unwrap();
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
