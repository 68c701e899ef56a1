//! A sorted map of which a changed copy costs little, and which takes little memory for few entries.

use std::{cmp::Ordering, sync::Arc};

use serde::{Serialize, Serializer};

/// Entries of one chunk at most: what a change copies.
const CHUNK: usize = 128;

/// Entries in the order of their keys. A clone shares its chunks with its original.
#[derive(Debug)]
pub struct ChunkedMap<K, V> {
    /// None is empty.
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

type Chunk<K, V> = Arc<[(K, V)]>;

/// What became of one key.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    pub key: &'a K,
    pub before: Option<&'a V>,
    pub after: Option<&'a V>,
}

impl<K: Ord + Clone, V: Clone> ChunkedMap<K, V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let (chunk, position) = self.find(key);
        Some(&self.chunks.get(chunk)?[position.ok()?].1)
    }

    /// The entry that `index` others come before.
    pub fn nth(&self, mut index: usize) -> Option<(&K, &V)> {
        for chunk in &self.chunks {
            match chunk.get(index) {
                Some((key, value)) => return Some((key, value)),
                None => index -= chunk.len(),
            }
        }
        None
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        entries.map(|(key, value)| (key, value))
    }

    pub fn insert(&mut self, key: K, value: V) {
        let (index, position) = self.find(&key);
        let Some(chunk) = self.chunks.get(index) else {
            self.len += 1;
            return self.chunks.push([(key, value)].into());
        };
        let (position, after) = match position {
            Ok(found) => (found, found + 1),
            Err(place) => (place, place),
        };
        let entry = [(key, value)];
        let changed = [&chunk[..position], &entry, &chunk[after..]].concat();
        self.len = self.len + changed.len() - chunk.len();
        if changed.len() > CHUNK {
            let (first, second) = changed.split_at(changed.len() / 2);
            let halves: [Chunk<K, V>; 2] = [first.into(), second.into()];
            self.chunks.splice(index..=index, halves);
        } else {
            self.chunks[index] = changed.into();
        }
    }

    pub fn remove(&mut self, key: &K) {
        let (index, Ok(position)) = self.find(key) else {
            return;
        };
        let chunk = &self.chunks[index];
        let rest = [&chunk[..position], &chunk[position + 1..]].concat();
        self.len -= 1;
        // Chunks that have become small join: else many removals would leave many of them.
        let fits = |neighbour: usize| {
            let neighbour = self.chunks.get(neighbour);
            neighbour.is_some_and(|it| rest.len() + it.len() <= CHUNK / 2)
        };
        let first = index - usize::from(index > 0 && fits(index - 1));
        let last = index + usize::from(first == index && fits(index + 1));
        let before = self.chunks[first..index].iter();
        let after = self.chunks[index + 1..=last].iter();
        let entries = |chunk: &Chunk<K, V>| chunk.to_vec();
        let joined = before.flat_map(entries).chain(rest);
        let joined: Vec<_> = joined.chain(after.flat_map(entries)).collect();
        let chunk: Option<Chunk<K, V>> = (!joined.is_empty()).then(|| joined.into());
        self.chunks.splice(first..=last, chunk);
    }

    /// Every key whose value is another one in `after`, in order. What both share is not looked at.
    pub fn differences<'a>(&'a self, after: &'a Self) -> Vec<Difference<'a, K, V>>
    where
        V: PartialEq,
    {
        let mut differences = Vec::new();
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        loop {
            if old.skip_shared(&mut new) {
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return differences,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let before = (order != Ordering::Greater).then(|| old.next()).flatten();
            let after = (order != Ordering::Less).then(|| new.next()).flatten();
            if let Some((key, _)) = before.or(after) {
                let (before, after) = (before.map(|it| &it.1), after.map(|it| &it.1));
                if before != after {
                    differences.push(Difference { key, before, after });
                }
            }
        }
    }

    /// The chunk where a key is or belongs, and its position there.
    fn find(&self, key: &K) -> (usize, Result<usize, usize>) {
        let after = self.chunks.partition_point(|chunk| chunk[0].0 <= *key);
        let index = after.saturating_sub(1);
        let position = match self.chunks.get(index) {
            Some(chunk) => chunk.binary_search_by(|(other, _)| other.cmp(key)),
            None => Err(0),
        };
        (index, position)
    }
}

/// The next entry of a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// Within the first chunk.
    position: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a ChunkedMap<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            position: 0,
        }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.position)
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let entry = self.entry()?;
        self.position += 1;
        if self.position == self.chunks[0].len() {
            self.skip_chunk();
        }
        Some(entry)
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.position = 0;
    }

    /// A shared chunk begins with the same key on both sides, so both come to its start together.
    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some(own), Some(others)) = (self.chunks.first(), other.chunks.first()) else {
            return false;
        };
        let shared = self.position == 0 && other.position == 0 && Arc::ptr_eq(own, others);
        if shared {
            self.skip_chunk();
            other.skip_chunk();
        }
        shared
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for ChunkedMap<K, V> {
    /// Of equal keys the last one counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(a, _), (b, _)| a == b);
        Self {
            len: entries.len(),
            // Room in each, so that the next insertion doesn't split it.
            chunks: entries.chunks(CHUNK * 3 / 4).map(Arc::from).collect(),
        }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for ChunkedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).is_empty()
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for ChunkedMap<K, V> {}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Serialize for ChunkedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

// Derived, these would ask that keys and values themselves are `Clone` or `Default`.
impl<K, V> Clone for ChunkedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
        }
    }
}

impl<K, V> Default for ChunkedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Naive = BTreeMap<u16, u8>;

    fn same(map: &ChunkedMap<u16, u8>, naive: &Naive) {
        assert!(map.iter().eq(naive.iter()));
        assert_eq!(map.len(), naive.len());
        assert!(
            map.chunks
                .iter()
                .all(|chunk| (1..=CHUNK).contains(&chunk.len()))
        );
        for (index, entry) in naive.iter().enumerate() {
            assert_eq!(map.nth(index), Some(entry));
            assert_eq!(map.get(entry.0), Some(entry.1));
        }
        assert_eq!(map.nth(naive.len()), None);
    }

    /// Adds, replaces or removes.
    fn change(map: &mut ChunkedMap<u16, u8>, naive: &mut Naive, key: u16, value: Option<u8>) {
        if let Some(value) = value {
            map.insert(key, value);
            naive.insert(key, value);
        } else {
            map.remove(&key);
            naive.remove(&key);
        }
    }

    fn differences(before: &Naive, after: &Naive) -> Vec<(u16, Option<u8>, Option<u8>)> {
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let all = keys
            .into_iter()
            .map(|key| (*key, before.get(key).copied(), after.get(key).copied()));
        all.filter(|(_, before, after)| before != after).collect()
    }

    #[test]
    fn many_removals_leave_no_small_chunks_behind() {
        let mut map: ChunkedMap<u16, u8> = (0..10_000).map(|key| (key, 0)).collect();
        for key in (0..10_000).filter(|key| key % 100 != 0) {
            map.remove(&key);
        }
        assert_eq!(map.len(), 100);
        assert!(map.chunks.len() <= 5, "{}", map.chunks.len());
    }

    proptest! {
        #[test]
        fn it_is_as_any_other_map(
            first in vec((0u16..800, 0u8..4), 0..800),
            changes in vec((0u16..800, proptest::option::of(0u8..4)), 0..400),
        ) {
            let mut map: ChunkedMap<u16, u8> = first.iter().copied().collect();
            let mut naive: Naive = first.into_iter().collect();
            same(&map, &naive);
            let (map_before, naive_before) = (map.clone(), naive.clone());
            for (key, value) in changes {
                change(&mut map, &mut naive, key, value);
            }
            same(&map, &naive);
            same(&map_before, &naive_before);

            let found: Vec<_> = map_before
                .differences(&map)
                .into_iter()
                .map(|it| (*it.key, it.before.copied(), it.after.copied()))
                .collect();
            prop_assert_eq!(&found, &differences(&naive_before, &naive));
            prop_assert_eq!(map == map_before, found.is_empty());
            let anew: ChunkedMap<u16, u8> = naive.into_iter().collect();
            prop_assert!(map == anew);
        }
    }
}
