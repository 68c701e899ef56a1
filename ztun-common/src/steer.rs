use crate::{
    Address, Endpoint, Flow, HBONE_PORT, LOOPBACK_INTERFACE, Listener, ListenerKey, is_tcp,
};

/// A connection that arrives at the pod's network namespace and looks for its listener.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    pub protocol: u32,
    pub local: Address,
    /// Host byte order.
    pub local_port: u32,
    pub remote: Address,
    /// Host byte order.
    pub remote_port: u16,
    pub ingress_interface: u32,
}

/// Where an arriving connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// To whatever the kernel finds: it is none of ours.
    Pass,
    /// To the application: it is a probe of this node's kubelet.
    Probe,
    /// To this listener; dropped if that doesn't live.
    To(Listener, ListenerKey),
}

/// Decides where an arriving connection goes.
///
/// What arrives over loopback is a connection that the pod opened, or the daemon's last hop to the
/// application, which is bound to loopback for that. Anything else came from outside, but for the
/// pod's connections to its own addresses: those show the address's interface.
///
/// `is_probe` tells whether this node's kubelet is just opening a connection with these ends.
#[inline(always)]
pub fn steer(
    lookup: &Lookup,
    is_own: impl Fn(&Address) -> bool,
    is_probe: impl FnOnce(&Flow) -> bool,
) -> Steer {
    if !is_tcp(lookup.protocol) {
        return Steer::Pass;
    }
    let listener = if lookup.ingress_interface == LOOPBACK_INTERFACE {
        if lookup.local.is_loopback() || is_own(&lookup.local) {
            return Steer::Pass;
        }
        Listener::Outbound
    } else if is_own(&lookup.remote) {
        return Steer::Pass;
    } else if lookup.local_port == HBONE_PORT {
        Listener::InboundHbone
    } else if is_probe(&lookup.flow()) {
        return Steer::Probe;
    } else {
        Listener::InboundPlaintext
    };
    Steer::To(listener, ListenerKey::new(listener, lookup.local.family()))
}

impl Lookup {
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // A port.
    fn flow(&self) -> Flow {
        Flow::new(
            Endpoint::new(self.remote, self.remote_port),
            Endpoint::new(self.local, self.local_port as u16),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::Family;

    const LO: u32 = 1;
    const ETH0: u32 = 2;
    const NODE: &str = "10.0.0.254";
    const REMOTE_PORT: u16 = 40000;
    const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn is_own(candidate: &Address) -> bool {
        OWN.iter().any(|own| address(own) == *candidate)
    }

    fn arriving(ingress_interface: u32, remote: &str, local: &str, local_port: u32) -> Steer {
        let lookup = Lookup {
            protocol: 6,
            local: address(local),
            local_port,
            remote: address(remote),
            remote_port: REMOTE_PORT,
            ingress_interface,
        };
        steer(&lookup, is_own, |flow| *flow == probe())
    }

    /// What this node's kubelet has open.
    fn probe() -> Flow {
        let kubelet = Endpoint::new(address(NODE), REMOTE_PORT);
        Flow::new(kubelet, Endpoint::new(address("10.0.0.1"), 8080))
    }

    fn to(listener: Listener, family: Family) -> Steer {
        Steer::To(listener, ListenerKey::new(listener, family))
    }

    #[test]
    fn from_outside_port_15008_is_hbone_and_every_other_port_is_plaintext() {
        assert_eq!(
            arriving(ETH0, "10.0.0.2", "10.0.0.1", 15008),
            to(Listener::InboundHbone, Family::V4)
        );
        assert_eq!(
            arriving(ETH0, "fd00::2", "fd00::1", 15008),
            to(Listener::InboundHbone, Family::V6)
        );
        for port in [0, 80, 15001, 15006, 65535] {
            assert_eq!(
                arriving(ETH0, "10.0.0.2", "10.0.0.1", port),
                to(Listener::InboundPlaintext, Family::V4)
            );
        }
    }

    #[test]
    fn an_address_that_is_not_yet_known_as_the_pods_is_captured_too() {
        assert_eq!(
            arriving(ETH0, "10.0.0.2", "10.0.0.77", 80),
            to(Listener::InboundPlaintext, Family::V4)
        );
    }

    #[test]
    fn over_loopback_foreign_destinations_are_outbound() {
        assert_eq!(
            arriving(LO, "10.0.0.1", "10.0.0.2", 15008),
            to(Listener::Outbound, Family::V4)
        );
        assert_eq!(
            arriving(LO, "fd00::1", "fd00::2", 80),
            to(Listener::Outbound, Family::V6)
        );
    }

    #[test]
    fn the_last_hop_and_the_pods_own_loopback_pass() {
        assert_eq!(arriving(LO, "10.0.0.2", "10.0.0.1", 80), Steer::Pass);
        assert_eq!(arriving(LO, "fd00::2", "fd00::1", 80), Steer::Pass);
        assert_eq!(arriving(LO, "127.0.0.1", "127.0.0.1", 80), Steer::Pass);
        assert_eq!(arriving(LO, "::1", "::1", 80), Steer::Pass);
    }

    #[test]
    fn the_pod_to_its_own_address_passes_whatever_interface_it_shows() {
        for interface in [LO, ETH0] {
            assert_eq!(arriving(interface, "10.0.0.1", "10.0.0.1", 80), Steer::Pass);
        }
    }

    #[test]
    fn a_probe_of_the_kubelet_reaches_the_application_and_nothing_like_it_does() {
        assert_eq!(arriving(ETH0, NODE, "10.0.0.1", 8080), Steer::Probe);
        let plaintext = to(Listener::InboundPlaintext, Family::V4);
        assert_eq!(arriving(ETH0, NODE, "10.0.0.1", 8081), plaintext);
        assert_eq!(arriving(ETH0, "10.0.0.2", "10.0.0.1", 8080), plaintext);
        assert_eq!(arriving(LO, NODE, "10.0.0.1", 8080), Steer::Pass);
    }

    #[test]
    fn tunnels_are_nobodys_probes() {
        let lookup = Lookup {
            protocol: 6,
            local: address("10.0.0.1"),
            local_port: HBONE_PORT,
            remote: address(NODE),
            remote_port: REMOTE_PORT,
            ingress_interface: ETH0,
        };
        assert_eq!(
            steer(&lookup, is_own, |_| true),
            to(Listener::InboundHbone, Family::V4)
        );
    }

    #[test]
    fn other_protocols_pass() {
        let lookup = Lookup {
            protocol: 17,
            local: address("10.0.0.1"),
            local_port: 15008,
            remote: address("10.0.0.2"),
            remote_port: REMOTE_PORT,
            ingress_interface: ETH0,
        };
        assert_eq!(steer(&lookup, is_own, |_| false), Steer::Pass);
    }

    proptest! {
        #[test]
        fn nothing_foreign_from_outside_reaches_the_application_by_itself(
            local: IpAddr, remote: IpAddr, local_port in 0u32..=65535, remote_port: u16,
            interface in 2u32..,
        ) {
            let lookup = Lookup {
                protocol: 6,
                local: local.into(),
                local_port,
                remote: remote.into(),
                remote_port,
                ingress_interface: interface,
            };
            prop_assume!(!is_own(&lookup.remote));
            prop_assert!(matches!(steer(&lookup, is_own, |_| false), Steer::To(..)));
        }
    }
}
