//! Services: virtual addresses, which no route leads to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{manifest::ServiceSpec, pod::Family};

/// A service of the mesh and its virtual addresses.
pub struct Service {
    pub spec: ServiceSpec,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Service {
    pub(crate) fn new((number, spec): (u16, ServiceSpec)) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            spec,
            v4: Ipv4Addr::new(10, 96, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number),
        }
    }

    /// `namespace/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// Where a client reaches `port` of the service.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(family.address(self.v4, self.v6), port)
    }
}
