//! Which addresses the calling thread's network namespace has.

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use ztun_common::{Family, LOOPBACK_INTERFACE};

use super::netlink::{Netlink, NetlinkError, family_of};

/// The addresses that a pod has at one moment, except for loopback's and link-local IPv6 ones.
#[derive(Debug, PartialEq, Eq)]
pub struct NamespaceAddresses {
    /// Those that the kernel takes for the pod's. A tentative one isn't yet: another host may have it.
    pub own: Vec<IpAddr>,
    /// The families in which the pod has an address, be it a tentative one.
    pub families: Vec<Family>,
    /// What may be the source of captured IPv4 connections; the best first.
    sources: Vec<Ipv4Addr>,
}

impl NamespaceAddresses {
    pub fn read(netlink: &Netlink) -> Result<Self, NetlinkError> {
        Ok(Self::of(&netlink.addresses()?))
    }

    /// Whether there is none, not even a tentative one.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// The source of captured IPv4 connections: the one that it was as long as the pod has that.
    pub fn source(&self, former: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        former
            .filter(|former| self.sources.contains(former))
            .or_else(|| self.sources.first().copied())
    }

    fn of(messages: &[AddressMessage]) -> Self {
        let mut own = Vec::new();
        let mut families = Vec::new();
        let mut sources = Vec::new();
        for message in messages {
            let Some(ip) = own_end(message).filter(|&ip| is_of_the_pod(ip)) else {
                continue;
            };
            families.push(family_of(ip));
            if is_usable(message.header.flags) {
                own.push(ip);
            }
            if let IpAddr::V4(ip) = ip {
                sources.push((message.header.index == LOOPBACK_INTERFACE, ip));
            }
        }
        own.sort_unstable();
        own.dedup();
        families.sort_unstable();
        families.dedup();
        sources.sort_by_key(|&(on_loopback, _)| on_loopback);
        Self {
            own,
            families,
            sources: sources.into_iter().map(|(_, ip)| ip).collect(),
        }
    }
}

fn is_of_the_pod(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// Whether duplicate address detection (RFC 4862) lets the address be used; an optimistic one may
/// be used before it is done (RFC 4429).
fn is_usable(flags: AddressHeaderFlags) -> bool {
    let tentative = flags.contains(AddressHeaderFlags::Tentative)
        && !flags.contains(AddressHeaderFlags::Optimistic);
    !tentative && !flags.contains(AddressHeaderFlags::Dadfailed)
}

/// On a point-to-point link `Address` is the peer's and `Local` this end's; elsewhere IPv6 has
/// only `Address`.
fn own_end(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = &message.attributes;
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ETH0: u32 = 2;

    fn message(interface: u32, ip: &str, flags: AddressHeaderFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = interface;
        message.header.flags = flags;
        let ip = ip.parse().unwrap();
        message.attributes.push(AddressAttribute::Address(ip));
        message
    }

    fn settled(interface: u32, ip: &str) -> AddressMessage {
        message(interface, ip, AddressHeaderFlags::empty())
    }

    fn own(messages: &[AddressMessage]) -> Vec<String> {
        let found = NamespaceAddresses::of(messages);
        found.own.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_and_link_local_addresses_are_none_of_a_pods() {
        let found = NamespaceAddresses::of(&[
            settled(LOOPBACK_INTERFACE, "127.0.0.1"),
            settled(LOOPBACK_INTERFACE, "::1"),
            settled(ETH0, "fe80::1"),
        ]);
        assert!(found.is_empty());
        assert_eq!(found.own, [] as [IpAddr; 0]);
    }

    #[test]
    fn temporary_and_deprecated_addresses_are_a_pods_own() {
        for flags in [
            AddressHeaderFlags::Secondary, // The same bit as "temporary" of IPv6.
            AddressHeaderFlags::Deprecated,
            AddressHeaderFlags::Permanent,
        ] {
            assert_eq!(own(&[message(ETH0, "fd00::1", flags)]), ["fd00::1"]);
        }
    }

    #[test]
    fn an_address_counts_once_it_is_known_that_nobody_else_has_it() {
        let tentative = AddressHeaderFlags::Tentative;
        for flags in [
            tentative,
            AddressHeaderFlags::Dadfailed,
            tentative | AddressHeaderFlags::Dadfailed,
        ] {
            let found = NamespaceAddresses::of(&[message(ETH0, "fd00::1", flags)]);
            assert_eq!(found.own, [] as [IpAddr; 0], "{flags:?}");
            assert_eq!(found.families, [Family::V6], "{flags:?}");
        }
        let optimistic = tentative | AddressHeaderFlags::Optimistic;
        assert_eq!(own(&[message(ETH0, "fd00::1", optimistic)]), ["fd00::1"]);
    }

    #[test]
    fn on_a_point_to_point_link_this_end_counts() {
        let mut ends = settled(ETH0, "10.0.0.9");
        let local = AddressAttribute::Local("10.0.0.1".parse().unwrap());
        ends.attributes.push(local);
        assert_eq!(own(&[ends]), ["10.0.0.1"]);
    }

    #[test]
    fn the_source_is_the_first_address_that_is_not_on_loopback() {
        let messages = [
            settled(LOOPBACK_INTERFACE, "10.0.0.1"),
            settled(ETH0, "10.0.0.3"),
            settled(ETH0, "10.0.0.2"),
        ];
        let source = |count| NamespaceAddresses::of(&messages[..count]).source(None);
        assert_eq!(source(3), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(source(1), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(source(0), None);
    }

    #[test]
    fn the_source_stays_as_long_as_the_pod_has_it() {
        let (first, second) = (settled(ETH0, "10.0.0.1"), settled(ETH0, "10.0.0.2"));
        let second_was = Some(Ipv4Addr::new(10, 0, 0, 2));
        let both = NamespaceAddresses::of(&[first.clone(), second]);
        assert_eq!(both.source(second_was), second_was);
        let one = NamespaceAddresses::of(&[first]);
        assert_eq!(one.source(second_was), Some(Ipv4Addr::new(10, 0, 0, 1)));
    }
}
