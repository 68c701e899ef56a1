//! The node that another machine has: what is known of it here.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    addressing::Addressing,
    manifest::Manifest,
    pod::{Family, PodSpec},
};

pub(crate) struct FarNode {
    pub name: String,
    pub addressing: Addressing,
    pub pods: Vec<FarPod>,
}

/// A pod on another machine.
pub struct FarPod {
    pub spec: PodSpec,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl FarNode {
    pub(crate) fn new(name: &str, addressing: Addressing) -> Self {
        Self {
            name: name.into(),
            addressing,
            pods: Vec::new(),
        }
    }

    pub(crate) fn add_pod(&mut self, spec: PodSpec) {
        let (v4, v6) = self.addressing.next_pod();
        self.pods.push(FarPod { spec, v4, v6 });
    }
}

impl FarPod {
    /// The object that describes it in the mesh directory, the same as on its own machine.
    pub(crate) fn manifest(&self) -> Manifest {
        let addresses = [self.v4.into(), self.v6.into()];
        let uid = self.spec.hyphenated();
        Manifest::pod(&self.spec, &uid, &self.spec.node, &addresses)
    }

    /// Where a client reaches `port` of this pod.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(family.address(self.v4, self.v6), port)
    }
}
