//! How a connection is carried to the workload that it was routed to.

use super::workload::{TunnelProtocol, Workload};

/// The port of a pod on which its proxy takes tunnels.
pub const HBONE_PORT: u16 = 15008;

/// Ports of the proxy inside each pod: never a tunnel's inner target, or traffic could loop.
pub const RESERVED_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// How two pods of this node reach each other. Policy is the same for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameNode {
    /// Inside this process: no byte leaves the node, so nothing is encrypted.
    #[default]
    Direct,
    /// Through the same tunnel as between nodes.
    Tunnel,
}

/// What the choice depends on besides the two workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    pub same_node: SameNode,
    pub hbone_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<L> {
    /// As it is: the destination is not enrolled.
    Plaintext,
    /// Inside the daemon of both, to what stands there for the destination.
    SameNode(L),
    /// Under mutual TLS, to the proxy beside the destination.
    Hbone,
    /// Not at all: the port is the proxy's own.
    ReservedPort,
}

impl TransportSettings {
    /// How the proxy of `source`, which is enrolled, carries a connection to `port` of
    /// `destination`. `local` finds the destination on the source's node.
    pub fn transport<L>(
        &self,
        source: &Workload,
        destination: &Workload,
        port: u16,
        local: impl FnOnce() -> Option<L>,
    ) -> Transport<L> {
        if destination.tunnel_protocol == TunnelProtocol::None {
            return Transport::Plaintext;
        }
        if self.is_reserved(port) {
            return Transport::ReservedPort;
        }
        // A pod's own port 15008 is its own, so it reaches itself without a tunnel, whatever is set.
        if self.same_node == SameNode::Tunnel && destination.uid != source.uid {
            return Transport::Hbone;
        }
        local().map_or(Transport::Hbone, Transport::SameNode)
    }

    /// Whether `port` of a pod is its proxy's.
    pub fn is_reserved(&self, port: u16) -> bool {
        RESERVED_PORTS.contains(&port) || port == self.hbone_port
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            same_node: SameNode::default(),
            hbone_port: HBONE_PORT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::fixture::workload;

    fn transport(
        same_node: SameNode,
        source: &str,
        destination: &Workload,
        port: u16,
    ) -> Transport<()> {
        let settings = TransportSettings {
            same_node,
            hbone_port: 25008,
        };
        settings.transport(&workload(source, &[]), destination, port, || Some(()))
    }

    #[test]
    fn the_proxy_s_own_ports_are_refused_where_there_is_one() {
        let mut destination = workload("b", &[]);
        for port in [15001, 15006, 15008, 25008] {
            let enrolled = transport(SameNode::Direct, "a", &destination, port);
            assert_eq!(enrolled, Transport::ReservedPort, "{port}");
        }
        destination.tunnel_protocol = TunnelProtocol::None;
        let outside = transport(SameNode::Direct, "a", &destination, 15008);
        assert_eq!(outside, Transport::Plaintext);
    }

    #[test]
    fn neighbours_are_reached_as_it_is_set_and_a_pod_reaches_itself_without_a_tunnel() {
        let b = workload("b", &[]);
        for (same_node, source, expected) in [
            (SameNode::Direct, "a", Transport::SameNode(())),
            (SameNode::Tunnel, "a", Transport::Hbone),
            (SameNode::Tunnel, "b", Transport::SameNode(())),
        ] {
            let found = transport(same_node, source, &b, 80);
            assert_eq!(found, expected, "{same_node:?} {source}");
        }
    }
}
