//! What the proxy needs of a pod: its captured listeners, and sockets opened in its network namespace.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use tokio::net::TcpSocket;

use crate::mesh::PodName;

/// An enrolled pod, as the proxy serves it.
#[derive(Clone, Debug)]
pub struct ProxiedPod {
    pub name: PodName,
    /// The pod's own addresses, both families.
    pub addresses: Vec<IpAddr>,
    pub sockets: Arc<dyn PodSockets>,
}

/// Sockets that carry the pod's addresses: created inside its network namespace.
///
/// Implemented by `redirect`; the proxy's own tests implement it over loopback.
pub trait PodSockets: std::fmt::Debug + Send + Sync + 'static {
    /// A socket for the daemon's own connection out of the pod to `destination`; it isn't captured.
    fn upstream(&self, destination: SocketAddr) -> io::Result<TcpSocket>;

    /// Where the application asked to go, if another owner's program (a CNI's socket load balancer)
    /// sent its connection to `dialled` instead. Answers once for each connection.
    fn asked_destination(&self, _client: SocketAddr, _dialled: SocketAddr) -> Option<SocketAddr> {
        None
    }

    /// A socket for the last hop to the pod's application, which will see `client` as its peer.
    /// Bound to the client's address (any port); connect it to the application's address.
    fn last_hop(&self, client: IpAddr) -> io::Result<TcpSocket>;
}

/// The listening sockets (non-blocking) that the kernel steers a pod's captured connections to.
///
/// An accepted socket's local address is what the client dialled.
#[derive(Debug, Default)]
pub struct PodListeners {
    /// Connections that the pod's application opens.
    pub outbound: Vec<TcpListener>,
    /// Connections from outside to the application's ports.
    pub inbound_plaintext: Vec<TcpListener>,
    /// Connections from outside to port 15008.
    pub inbound_hbone: Vec<TcpListener>,
}
