use crate::{Address, Family, LOOPBACK_INTERFACE, is_tcp};

/// A `connect()` of one of the pod's processes.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    pub protocol: u32,
    pub destination: Address,
    /// The interface that the socket is bound to (`SO_BINDTODEVICE`), 0 for none.
    pub bound_interface: u32,
}

/// What becomes of a `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// It is none of ours.
    Pass,
    /// It goes to one of the pod's own addresses. It gets the mark in case that the pod has this
    /// address no longer and the daemon hasn't noticed: then the connection ends in the pod.
    Stay,
    /// It gets the mark, which routes it to the outbound listener.
    Mark,
    Refuse(Refusal),
}

/// Why a `connect()` is refused: each of these would leave the pod uncaptured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No outbound listener of the destination's family lives.
    NoListener,
    /// The socket is bound to an interface, which overrules the route that the mark selects.
    BoundInterface,
    /// `fe80::/10` is routed by interface, past the mark.
    LinkLocal,
    /// The kernel would not set the mark.
    Mark,
}

/// Decides what becomes of a `connect()`; fails closed.
#[inline(always)]
pub fn capture(
    connect: &Connect,
    is_own: impl FnOnce(&Address) -> bool,
    is_listening: impl FnOnce(Family) -> bool,
) -> Capture {
    let destination = &connect.destination;
    if !is_tcp(connect.protocol) || destination.is_loopback() {
        return Capture::Pass;
    }
    if is_own(destination) {
        return Capture::Stay;
    }
    if connect.bound_interface != 0 && connect.bound_interface != LOOPBACK_INTERFACE {
        return Capture::Refuse(Refusal::BoundInterface);
    }
    if destination.is_link_local_v6() {
        return Capture::Refuse(Refusal::LinkLocal);
    }
    if !is_listening(destination.family()) {
        return Capture::Refuse(Refusal::NoListener);
    }
    Capture::Mark
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const TCP: u32 = 6;
    const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];

    fn connect(protocol: u32, destination: &str, bound_interface: u32) -> Connect {
        Connect {
            protocol,
            destination: destination.parse::<IpAddr>().unwrap().into(),
            bound_interface,
        }
    }

    fn decide(connect: &Connect) -> Capture {
        capture(connect, is_own, |_| true)
    }

    fn is_own(address: &Address) -> bool {
        OWN.iter()
            .any(|own| Address::from(own.parse::<IpAddr>().unwrap()) == *address)
    }

    #[test]
    fn tcp_and_mptcp_to_anywhere_else_are_marked() {
        for destination in ["10.0.0.2", "fd00::2", "::ffff:10.0.0.2"] {
            for protocol in [TCP, 262] {
                assert_eq!(decide(&connect(protocol, destination, 0)), Capture::Mark);
            }
        }
    }

    #[test]
    fn other_protocols_pass() {
        for protocol in [0, 1, 17, 58, 132] {
            assert_eq!(decide(&connect(protocol, "10.0.0.2", 0)), Capture::Pass);
        }
    }

    #[test]
    fn loopback_passes_even_with_no_listener() {
        for destination in ["127.0.0.1", "::1", "0.0.0.0"] {
            let verdict = capture(&connect(TCP, destination, 7), is_own, |_| false);
            assert_eq!(verdict, Capture::Pass, "{destination}");
        }
    }

    #[test]
    fn what_goes_to_an_own_address_stays_even_with_no_listener() {
        for destination in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"] {
            let verdict = capture(&connect(TCP, destination, 7), is_own, |_| false);
            assert_eq!(verdict, Capture::Stay, "{destination}");
        }
    }

    #[test]
    fn only_a_socket_bound_to_loopback_may_be_bound() {
        assert_eq!(decide(&connect(TCP, "10.0.0.2", 1)), Capture::Mark);
        assert_eq!(
            decide(&connect(TCP, "10.0.0.2", 2)),
            Capture::Refuse(Refusal::BoundInterface)
        );
    }

    #[test]
    fn link_local_destinations_are_refused() {
        assert_eq!(
            decide(&connect(TCP, "fe80::1", 0)),
            Capture::Refuse(Refusal::LinkLocal)
        );
    }

    #[test]
    fn a_v4_mapped_destination_needs_the_ipv4_listener() {
        let only = |lives: Family| move |family| family == lives;
        let mapped = connect(TCP, "::ffff:10.0.0.2", 0);
        assert_eq!(capture(&mapped, is_own, only(Family::V4)), Capture::Mark);
        assert_eq!(
            capture(&mapped, is_own, only(Family::V6)),
            Capture::Refuse(Refusal::NoListener)
        );
    }

    proptest! {
        #[test]
        fn without_a_listener_nothing_outside_is_ever_reached(ip: IpAddr, interface: u32) {
            let connect = Connect { protocol: TCP, destination: ip.into(), bound_interface: interface };
            let verdict = capture(&connect, |_| false, |_| false);
            prop_assert_eq!(verdict == Capture::Pass, connect.destination.is_loopback());
            prop_assert_ne!(verdict, Capture::Mark);
        }
    }
}
