//! The values of one field, laid out so that many cost hardly more than one.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};

use super::{ServiceAccount, StringMatch};
use crate::mesh::identity::{Identity, TrustDomain};

/// Patterns of SPIFFE IDs without their `spiffe://`.
#[derive(Clone, Debug)]
pub(super) struct Principals(Patterns);

#[derive(Clone, Debug)]
pub(super) struct Namespaces(Patterns);

/// The texts are those of the policy itself: they take no memory twice.
#[derive(Clone, Debug)]
struct Patterns {
    any: bool,
    /// In order.
    exact: Box<[Arc<str>]>,
    /// Prefixes and suffixes.
    affixes: Box<[StringMatch]>,
}

/// In the order of namespaces, and of names within one.
#[derive(Clone, Debug)]
pub(super) struct ServiceAccounts(Box<[ServiceAccount]>);

#[derive(Clone, Debug)]
pub(super) struct Blocks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

#[derive(Clone, Debug)]
pub(super) struct Ports(Box<[u16]>);

/// First and last values of disjoint ranges, in order.
#[derive(Clone, Debug)]
struct Ranges<T>(Box<[(T, T)]>);

impl Principals {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        Self(Patterns::new(patterns))
    }

    /// `names` are the mesh's trust domain and its other names: an identity of one of them is
    /// matched as if it were of each.
    pub(super) fn contains(&self, identity: &Identity, names: &[TrustDomain]) -> bool {
        let of = |trust_domain: &TrustDomain| {
            self.0.match_text_of([
                trust_domain.as_str(),
                "/ns/",
                identity.namespace(),
                "/sa/",
                identity.service_account(),
            ])
        };
        let own = identity.trust_domain();
        of(own) || (names.contains(own) && names.iter().any(of))
    }
}

impl Namespaces {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        Self(Patterns::new(patterns))
    }

    pub(super) fn contains(&self, namespace: &str) -> bool {
        self.0.match_text_of([namespace])
    }
}

impl Patterns {
    fn new(patterns: &[StringMatch]) -> Self {
        let (mut exact, mut affixes) = (Vec::new(), Vec::new());
        let mut any = false;
        for pattern in patterns {
            match pattern {
                StringMatch::Exact(text) => exact.push(Arc::clone(text)),
                StringMatch::Prefix(_) | StringMatch::Suffix(_) => affixes.push(pattern.clone()),
                StringMatch::Presence => any = true,
            }
        }
        exact.sort_unstable();
        Self {
            any,
            exact: exact.into(),
            affixes: affixes.into(),
        }
    }

    /// Whether one matches the parts joined together, which they need not be.
    fn match_text_of<const N: usize>(&self, parts: [&str; N]) -> bool {
        let is_exact = || self.exact.binary_search_by(|text| compare(text, parts));
        self.any || is_exact().is_ok() || self.affixes.iter().any(|affix| has_affix(affix, parts))
    }
}

impl ServiceAccounts {
    pub(super) fn new(accounts: &[ServiceAccount]) -> Self {
        let mut accounts: Box<[ServiceAccount]> = accounts.into();
        accounts.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self(accounts)
    }

    pub(super) fn contains(&self, identity: &Identity) -> bool {
        let wanted = (identity.namespace(), identity.service_account());
        let found = self
            .0
            .binary_search_by(|account| (&*account.namespace, &*account.name).cmp(&wanted));
        found.is_ok()
    }
}

impl Blocks {
    pub(super) fn new(blocks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match canonical(*block) {
                IpNet::V4(block) => v4.push((block.network().into(), block.broadcast().into())),
                IpNet::V6(block) => v6.push((block.network().into(), block.broadcast().into())),
            }
        }
        Self {
            v4: Ranges::new(v4),
            v6: Ranges::new(v6),
        }
    }

    /// `address` must be canonical.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.into()),
            IpAddr::V6(address) => self.v6.contains(address.into()),
        }
    }
}

impl Ports {
    pub(super) fn new(ports: &[u16]) -> Self {
        let mut ports: Box<[u16]> = ports.into();
        ports.sort_unstable();
        Self(ports)
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }
}

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|(first, last), (_, kept_last)| {
            let overlap = *first <= *kept_last;
            if overlap {
                *kept_last = (*kept_last).max(*last);
            }
            overlap
        });
        Self(ranges.into())
    }

    fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        let candidate = after.checked_sub(1).map(|index| self.0[index]);
        candidate.is_some_and(|(_, last)| value <= last)
    }
}

/// As `text` compares to the parts joined together.
fn compare<const N: usize>(text: &str, parts: [&str; N]) -> Ordering {
    let mut rest = text.as_bytes();
    for part in parts {
        let (start, after) = rest.split_at(part.len().min(rest.len()));
        // A shorter start is a text that ends within the part.
        match start.cmp(part.as_bytes()) {
            Ordering::Equal => rest = after,
            unequal => return unequal,
        }
    }
    if rest.is_empty() {
        Ordering::Equal
    } else {
        Ordering::Greater
    }
}

fn has_affix<const N: usize>(affix: &StringMatch, parts: [&str; N]) -> bool {
    match affix {
        StringMatch::Prefix(prefix) => starts_with(parts, prefix),
        StringMatch::Suffix(suffix) => ends_with(parts, suffix),
        StringMatch::Exact(_) | StringMatch::Presence => false,
    }
}

fn starts_with<const N: usize>(parts: [&str; N], mut prefix: &str) -> bool {
    for part in parts {
        match prefix.strip_prefix(part) {
            Some(rest) => prefix = rest,
            None => return part.starts_with(prefix),
        }
    }
    prefix.is_empty()
}

fn ends_with<const N: usize>(parts: [&str; N], mut suffix: &str) -> bool {
    for part in parts.into_iter().rev() {
        match suffix.strip_suffix(part) {
            Some(rest) => suffix = rest,
            None => return part.ends_with(suffix),
        }
    }
    suffix.is_empty()
}

/// A block of IPv4-mapped addresses is the IPv4 block that it means.
fn canonical(block: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(mapped) = block else {
        return block;
    };
    let address = mapped.addr().to_ipv4_mapped();
    let length = mapped.prefix_len().checked_sub(MAPPED_BITS);
    let v4 = address
        .zip(length)
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok());
    v4.map_or(block, IpNet::V4)
}
