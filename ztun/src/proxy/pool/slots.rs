//! Which connection a tunnel gets: bookkeeping without IO, clocks or tasks.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct Slots<K, C, W> {
    keys: HashMap<K, Entry<C, W>>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// What a tunnel is to do.
#[derive(Debug)]
pub enum Acquired<C, W, D = ()> {
    /// Use it, and release it afterwards.
    Connection(C, ConnectionId),
    /// Set one up, and wait for it like the others.
    Connect(W, D),
    /// Somebody sets one up already: wait, and ask again.
    Wait(W),
}

#[derive(Debug)]
struct Entry<C, W> {
    connections: Vec<Slot<C>>,
    set_up: Option<W>,
}

#[derive(Debug)]
struct Slot<C> {
    id: ConnectionId,
    connection: C,
    streams: usize,
    idle_since: Instant,
}

impl<K, C, W> Default for Slots<K, C, W> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            next: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, C: Clone, W: Clone> Slots<K, C, W> {
    /// The oldest connection with room for one more of the `limit` streams that it takes, so that
    /// later ones can fall idle. At most one set-up a key at a time.
    pub fn acquire(
        &mut self,
        key: &K,
        limit: impl Fn(&C) -> usize,
        set_up: impl FnOnce() -> W,
    ) -> Acquired<C, W> {
        let entry = self.keys.entry(key.clone()).or_insert(Entry {
            connections: Vec::new(),
            set_up: None,
        });
        let mut slots = entry.connections.iter_mut();
        if let Some(slot) = slots.find(|slot| slot.streams < limit(&slot.connection)) {
            slot.streams += 1;
            return Acquired::Connection(slot.connection.clone(), slot.id);
        }
        match &entry.set_up {
            Some(waiting) => Acquired::Wait(waiting.clone()),
            None => Acquired::Connect(entry.set_up.insert(set_up()).clone(), ()),
        }
    }

    /// The set-up of `key` succeeded.
    pub fn connected(&mut self, key: &K, connection: C, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        // A key that was removed in the meantime takes no new tunnels.
        if let Some(entry) = self.keys.get_mut(key) {
            entry.set_up = None;
            entry.connections.push(Slot {
                id,
                connection,
                streams: 0,
                idle_since: now,
            });
        }
        id
    }

    /// The set-up of `key` failed; the next tunnel tries again.
    pub fn failed(&mut self, key: &K) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.set_up = None;
        }
        self.prune(key);
    }

    pub fn release(&mut self, key: &K, id: ConnectionId, now: Instant) {
        let Some(entry) = self.keys.get_mut(key) else {
            return;
        };
        if let Some(slot) = entry.connections.iter_mut().find(|slot| slot.id == id) {
            slot.streams -= 1;
            slot.idle_since = now;
        }
    }

    /// Takes a connection that takes no more tunnels; those that it has go on.
    pub fn remove(&mut self, key: &K, id: ConnectionId) -> Option<C> {
        let entry = self.keys.get_mut(key)?;
        let index = entry.connections.iter().position(|slot| slot.id == id)?;
        let slot = entry.connections.remove(index);
        self.prune(key);
        Some(slot.connection)
    }

    pub fn remove_keys(&mut self, matches: impl Fn(&K) -> bool) {
        self.keys.retain(|key, _| !matches(key));
    }

    /// Takes what has been idle for `idle`, and what is `expired` (used or not).
    pub fn sweep(
        &mut self,
        now: Instant,
        idle: Duration,
        expired: impl Fn(&K, &C) -> bool,
    ) -> Vec<C> {
        let mut removed = Vec::new();
        self.keys.retain(|key, entry| {
            let gone = entry.connections.extract_if(.., |slot| {
                let is_idle = slot.streams == 0 && now >= slot.idle_since + idle;
                is_idle || expired(key, &slot.connection)
            });
            removed.extend(gone.map(|slot| slot.connection));
            !entry.connections.is_empty() || entry.set_up.is_some()
        });
        removed
    }

    #[cfg(test)]
    fn connections(&self) -> usize {
        self.keys
            .values()
            .map(|entry| entry.connections.len())
            .sum()
    }

    fn prune(&mut self, key: &K) {
        let unused = |entry: &Entry<C, W>| entry.connections.is_empty() && entry.set_up.is_none();
        if self.keys.get(key).is_some_and(unused) {
            self.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Slots<&'static str, &'static str, ()>;

    const LIMIT: usize = 2;

    fn acquire(slots: &mut Plain, key: &'static str) -> Acquired<&'static str, ()> {
        slots.acquire(&key, |_| LIMIT, || ())
    }

    fn connection(slots: &mut Plain) -> ConnectionId {
        match acquire(slots, "b") {
            Acquired::Connection(_, id) => id,
            other => panic!("expected a connection, got {other:?}"),
        }
    }

    #[test]
    fn one_sets_up_and_the_others_wait() {
        let mut slots = Plain::default();
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Connect(..)));
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Wait(())));
        assert!(matches!(acquire(&mut slots, "c"), Acquired::Connect(..)));
    }

    #[test]
    fn a_failed_set_up_is_tried_again_by_the_next() {
        let mut slots = Plain::default();
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Connect(..)));
        slots.failed(&"b");
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Connect(..)));
    }

    #[test]
    fn a_full_connection_is_joined_by_another() {
        let mut slots = Plain::default();
        acquire(&mut slots, "b");
        let first = slots.connected(&"b", "1", Instant::now());
        for _ in 0..LIMIT {
            assert_eq!(connection(&mut slots), first);
        }
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Connect(..)));
        let second = slots.connected(&"b", "2", Instant::now());
        assert_eq!(connection(&mut slots), second);
        slots.release(&"b", first, Instant::now());
        assert_eq!(connection(&mut slots), first);
    }

    #[test]
    fn a_removed_connection_gets_no_new_tunnels_and_its_release_is_harmless() {
        let mut slots = Plain::default();
        acquire(&mut slots, "b");
        let id = slots.connected(&"b", "1", Instant::now());
        assert_eq!(connection(&mut slots), id);
        assert_eq!(slots.remove(&"b", id), Some("1"));
        assert!(matches!(acquire(&mut slots, "b"), Acquired::Connect(..)));
        slots.release(&"b", id, Instant::now());
        assert_eq!(slots.connections(), 0);
    }

    #[test]
    fn only_what_is_idle_long_enough_or_expired_is_swept() {
        let mut slots = Plain::default();
        let start = Instant::now();
        let idle = Duration::from_secs(90);
        acquire(&mut slots, "b");
        let id = slots.connected(&"b", "1", start);
        assert_eq!(connection(&mut slots), id);
        assert!(slots.sweep(start + idle, idle, |_, _| false).is_empty());
        slots.release(&"b", id, start + idle);
        assert!(slots.sweep(start + idle, idle, |_, _| false).is_empty());
        assert_eq!(slots.sweep(start + idle * 2, idle, |_, _| false), ["1"]);
        acquire(&mut slots, "b");
        slots.connected(&"b", "2", start);
        assert_eq!(slots.sweep(start, idle, |_, _| true), ["2"]);
    }
}
