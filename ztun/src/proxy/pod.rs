//! What the proxy needs of a pod: its captured listeners, and sockets opened in its network namespace.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::net::TcpSocket;

use crate::mesh::PodName;

/// An enrolled pod, as the proxy serves it.
#[derive(Clone, Debug)]
pub struct ProxiedPod {
    pub name: PodName,
    pub addresses: PodAddresses,
    pub sockets: Arc<dyn PodSockets>,
}

/// A pod's own addresses, both families, as they are now; clones share them.
#[derive(Clone, Debug, Default)]
pub struct PodAddresses(Arc<ArcSwap<Vec<IpAddr>>>);

impl PodAddresses {
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(addresses)))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.load().contains(&address)
    }

    pub fn to_vec(&self) -> Vec<IpAddr> {
        self.0.load().to_vec()
    }

    pub fn set(&self, addresses: Vec<IpAddr>) {
        self.0.store(Arc::new(addresses));
    }
}

/// Sockets that carry the pod's addresses: created inside its network namespace.
///
/// Implemented by `redirect`; the proxy's own tests implement it over loopback.
pub trait PodSockets: std::fmt::Debug + Send + Sync + 'static {
    /// A socket for the daemon's own connection out of the pod to `destination`; it isn't captured.
    ///
    /// It is bound to `source` (any port), the address that the application has chosen, if the pod
    /// can reach `destination` from there.
    fn upstream(&self, source: IpAddr, destination: SocketAddr) -> io::Result<TcpSocket>;

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

impl PodListeners {
    pub fn append(&mut self, mut more: Self) {
        self.outbound.append(&mut more.outbound);
        self.inbound_plaintext.append(&mut more.inbound_plaintext);
        self.inbound_hbone.append(&mut more.inbound_hbone);
    }

    /// The same sockets by other descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |sockets: &[TcpListener]| -> io::Result<Vec<_>> {
            sockets.iter().map(TcpListener::try_clone).collect()
        };
        Ok(Self {
            outbound: clone(&self.outbound)?,
            inbound_plaintext: clone(&self.inbound_plaintext)?,
            inbound_hbone: clone(&self.inbound_hbone)?,
        })
    }
}
