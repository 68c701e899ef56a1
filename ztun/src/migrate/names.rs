//! Names for what is printed: valid, and the same again for the same input.

use std::{collections::BTreeSet, sync::Arc};

/// Of a DNS subdomain, which an object's name is (RFC 1123).
const MAX_LENGTH: usize = 253;

/// A kind of today with a namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Existing {
    pub kind: &'static str,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// The names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<Existing>);

impl Names {
    /// Printing an object of this name would overwrite it.
    pub(super) fn reserve(&mut self, existing: &Existing) {
        self.0.insert(existing.clone());
    }

    /// `wanted` as it is where it is valid and free, else something like it with a hash.
    pub(super) fn take(
        &mut self,
        kind: &'static str,
        namespace: &Arc<str>,
        wanted: &str,
    ) -> Arc<str> {
        let mut name = valid(wanted);
        let mut salt = wanted.to_owned();
        while name.is_empty() || !self.insert(kind, namespace, &name) {
            name = with_hash(&valid(wanted), &salt);
            salt.push('+');
        }
        name.into()
    }

    fn insert(&mut self, kind: &'static str, namespace: &Arc<str>, name: &str) -> bool {
        self.0.insert(Existing {
            kind,
            namespace: Arc::clone(namespace),
            name: name.into(),
        })
    }
}

fn valid(wanted: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let replaced: String = wanted
        .to_ascii_lowercase()
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    let name = replaced.trim_matches(['-', '.']);
    if name == wanted && name.len() <= MAX_LENGTH {
        name.to_owned()
    } else {
        with_hash(name, wanted)
    }
}

fn with_hash(name: &str, salt: &str) -> String {
    let hash = format!("{:08x}", fnv1a(salt.as_bytes()));
    // It is ASCII: any index is a character's border.
    let kept = name[..name.len().min(MAX_LENGTH - hash.len() - 1)].trim_end_matches(['-', '.']);
    let separator = if kept.is_empty() { "" } else { "-" };
    format!("{kept}{separator}{hash}")
}

/// 32-bit FNV-1a: unlike the standard library's, its values are the same in every release.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(names: &mut Names, wanted: &str) -> Arc<str> {
        names.take("AuthorizationPolicy", &"foo".into(), wanted)
    }

    #[test]
    fn a_valid_free_name_is_kept() {
        assert_eq!(
            &*take(&mut Names::default(), "bind-httpbin.v1"),
            "bind-httpbin.v1"
        );
    }

    #[test]
    fn a_taken_name_gets_a_hash_and_another_one_when_that_is_taken_too() {
        let mut names = Names::default();
        let all: BTreeSet<_> = (0..4).map(|_| take(&mut names, "a-b")).collect();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|name| name.starts_with("a-b")), "{all:?}");
        let mut again = Names::default();
        assert_eq!(all, (0..4).map(|_| take(&mut again, "a-b")).collect());
    }

    #[test]
    fn the_same_name_in_another_namespace_or_kind_is_free() {
        let mut names = Names::default();
        take(&mut names, "a");
        assert_eq!(&*names.take("AuthorizationPolicy", &"bar".into(), "a"), "a");
        assert_eq!(&*names.take("PeerAuthentication", &"foo".into(), "a"), "a");
    }

    #[test]
    fn every_name_is_a_dns_subdomain() {
        let long = "x".repeat(300);
        let mut names = Names::default();
        for wanted in ["Upper", "-a", "a/b", "", "___", "é", &long, &long] {
            let name = take(&mut names, wanted);
            let allowed =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
            assert!(name.bytes().all(allowed), "{wanted}: {name}");
            assert!((1..=MAX_LENGTH).contains(&name.len()), "{wanted}: {name}");
            let ends = |c: char| c.is_ascii_alphanumeric();
            assert!(
                name.starts_with(ends) && name.ends_with(ends),
                "{wanted}: {name}"
            );
        }
    }
}
