//! Callers that were just judged good.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{CallerNode, TokenHash};

/// A token that is revoked meanwhile is good for so long.
const KEPT_FOR: Duration = Duration::from_mins(1);
/// More than the nodes of a large cluster.
const KEPT: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<TokenHash, (CallerNode, Instant)>>);

impl Cache {
    pub(super) fn get(&self, token: TokenHash, now: Instant) -> Option<CallerNode> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (caller, until) = kept.get(&token)?;
        (now < *until).then(|| caller.clone())
    }

    pub(super) fn put(&self, token: TokenHash, caller: CallerNode, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.retain(|_, (_, until)| now < *until);
        }
        if kept.len() < KEPT {
            kept.insert(token, (caller, now + KEPT_FOR));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(node: &str) -> CallerNode {
        CallerNode::Named(node.into())
    }

    #[test]
    fn an_answer_is_kept_for_a_minute() {
        let (cache, now, token) = (Cache::default(), Instant::now(), TokenHash::of("t"));
        cache.put(token, caller("a"), now);
        assert_eq!(cache.get(token, now + KEPT_FOR / 2), Some(caller("a")));
        assert_eq!(cache.get(token, now + KEPT_FOR), None);
        assert_eq!(cache.get(TokenHash::of("u"), now), None);
    }

    #[test]
    fn a_full_cache_makes_room_of_what_is_over_and_of_nothing_else() {
        let (cache, now) = (Cache::default(), Instant::now());
        let token = |number: usize| TokenHash::of(&number.to_string());
        for number in 0..=KEPT {
            cache.put(token(number), caller("a"), now);
        }
        assert_eq!(cache.get(token(0), now), Some(caller("a")));
        assert_eq!(cache.get(token(KEPT), now), None);
        let later = now + KEPT_FOR;
        cache.put(token(KEPT), caller("a"), later);
        assert_eq!(cache.get(token(KEPT), later), Some(caller("a")));
    }
}
