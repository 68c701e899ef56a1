//! Which addresses a node and its pods have: every machine of a mesh comes to the same ones.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU8, Ordering},
};

use crate::kernel::of_available_families;

/// The lengths of the networks' prefixes, IPv4's first.
pub(crate) const PREFIXES: [u8; 2] = [24, 64];
/// The first pod's last byte; the gateway has 1.
const FIRST_POD: u8 = 10;

/// The addresses of one node and its pods.
#[derive(Debug)]
pub(crate) struct Addressing {
    /// 1 for the first node, and so on.
    number: u8,
    next_pod: AtomicU8,
}

impl Addressing {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            number,
            next_pod: AtomicU8::new(FIRST_POD),
        }
    }

    /// The addresses of the node itself.
    pub(crate) fn node(&self) -> Vec<IpAddr> {
        of_available_families(
            Ipv4Addr::new(192, 168, 50, self.number),
            Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, self.number.into()),
        )
    }

    /// The subnets of the node's pods.
    pub(crate) fn pod_networks(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let networks = of_available_families(self.pod_v4(0), self.pod_v6(0));
        networks.into_iter().zip(PREFIXES)
    }

    /// The node's addresses towards its pods.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        of_available_families(self.pod_v4(1), self.pod_v6(1))
    }

    pub(crate) fn next_pod(&self) -> (Ipv4Addr, Ipv6Addr) {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        (self.pod_v4(number), self.pod_v6(number))
    }

    fn pod_v4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, host)
    }

    fn pod_v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x244, self.number.into(), 0, 0, 0, 0, host.into())
    }
}
