//! The values of one field, laid out so that many cost hardly more than one.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use super::{ServiceAccount, StringMatch};
use crate::mesh::identity::Identity;

/// Patterns of SPIFFE IDs without their `spiffe://`.
#[derive(Clone, Debug)]
pub(super) struct Principals {
    any: bool,
    exact: HashSet<Identity>,
    /// Prefixes and suffixes.
    affixes: Box<[StringMatch]>,
}

#[derive(Clone, Debug)]
pub(super) struct Namespaces {
    any: bool,
    exact: HashSet<Arc<str>>,
    /// Prefixes and suffixes.
    affixes: Box<[StringMatch]>,
}

/// Names by their namespace.
#[derive(Clone, Debug)]
pub(super) struct ServiceAccounts(HashMap<Arc<str>, HashSet<Arc<str>>>);

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
        let (any, exact, affixes) = sorted_out(patterns);
        // What isn't an identity as text equals no identity.
        let identity = |text: &Arc<str>| format!("spiffe://{text}").parse().ok();
        Self {
            any,
            exact: exact.filter_map(identity).collect(),
            affixes,
        }
    }

    pub(super) fn contains(&self, identity: &Identity) -> bool {
        self.any
            || self.exact.contains(identity)
            || (!self.affixes.is_empty() && self.has_affix_of(identity))
    }

    fn has_affix_of(&self, identity: &Identity) -> bool {
        let parts = [
            identity.trust_domain().as_str(),
            "/ns/",
            identity.namespace(),
            "/sa/",
            identity.service_account(),
        ];
        self.affixes.iter().any(|affix| match affix {
            StringMatch::Prefix(prefix) => starts_with(parts, prefix),
            StringMatch::Suffix(suffix) => ends_with(parts, suffix),
            StringMatch::Exact(_) | StringMatch::Presence => false,
        })
    }
}

impl Namespaces {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        let (any, exact, affixes) = sorted_out(patterns);
        Self {
            any,
            exact: exact.cloned().collect(),
            affixes,
        }
    }

    pub(super) fn contains(&self, namespace: &str) -> bool {
        self.any
            || self.exact.contains(namespace)
            || self.affixes.iter().any(|affix| affix.matches(namespace))
    }
}

impl ServiceAccounts {
    pub(super) fn new(accounts: &[ServiceAccount]) -> Self {
        let mut namespaces = HashMap::<_, HashSet<_>>::new();
        for account in accounts {
            let names = namespaces.entry(Arc::clone(&account.namespace));
            names.or_default().insert(Arc::clone(&account.name));
        }
        Self(namespaces)
    }

    pub(super) fn contains(&self, identity: &Identity) -> bool {
        let names = self.0.get(identity.namespace());
        names.is_some_and(|names| names.contains(identity.service_account()))
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

/// Whether presence is enough, the exact values, and the rest.
fn sorted_out(
    patterns: &[StringMatch],
) -> (bool, impl Iterator<Item = &Arc<str>>, Box<[StringMatch]>) {
    let any = patterns.contains(&StringMatch::Presence);
    let exact = patterns.iter().filter_map(|pattern| match pattern {
        StringMatch::Exact(text) => Some(text),
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
    });
    let is_affix =
        |pattern: &&StringMatch| matches!(pattern, StringMatch::Prefix(_) | StringMatch::Suffix(_));
    let affixes = patterns.iter().filter(is_affix).cloned().collect();
    (any, exact, affixes)
}

/// Whether the parts one after the other start with `prefix`.
fn starts_with(parts: [&str; 5], mut prefix: &str) -> bool {
    for part in parts {
        match prefix.strip_prefix(part) {
            Some(rest) => prefix = rest,
            None => return part.starts_with(prefix),
        }
    }
    prefix.is_empty()
}

fn ends_with(parts: [&str; 5], mut suffix: &str) -> bool {
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
