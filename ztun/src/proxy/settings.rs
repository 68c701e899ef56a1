//! Bounds of the data path. A configuration fills them; the defaults are the peer's where it has one.

use std::time::Duration;

use crate::mesh::transport::TransportSettings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    pub timeouts: Timeouts,
    pub transport: TransportSettings,
    /// Inbound connections of one pod that have not finished their TLS and HTTP/2 handshakes.
    pub pending_handshakes: usize,
    /// Connections of one pod that are open, both directions; each tunnel counts.
    pub connections: usize,
    /// Tunnels in one connection to a peer; the next one opens another connection.
    pub streams_per_connection: usize,
    /// A pooled connection without a tunnel is closed after this.
    pub pool_idle: Duration,
}

/// How long each stage of a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the mesh state, and for the pod's own workload in it.
    pub mesh_wait: Duration,
    pub tcp_connect: Duration,
    pub tls_handshake: Duration,
    pub http2_handshake: Duration,
    pub connect_response: Duration,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            transport: TransportSettings::default(),
            pending_handshakes: 512,
            connections: 65536,
            streams_per_connection: 100,
            pool_idle: Duration::from_secs(90),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            mesh_wait: Duration::from_secs(5),
            tcp_connect: Duration::from_secs(10),
            tls_handshake: Duration::from_secs(10),
            http2_handshake: Duration::from_secs(10),
            connect_response: Duration::from_secs(15),
        }
    }
}
