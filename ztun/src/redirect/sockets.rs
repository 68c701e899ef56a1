//! Sockets that the daemon opens in a pod's network namespace.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;
use ztun_common::MARK;

use super::{
    netns::{Netns, NetnsError},
    rewritten::Rewritten,
};
use crate::proxy::pod::{PodAddresses, PodSockets};

/// A captured pod's network namespace.
#[derive(Debug)]
pub struct PodNetns {
    pod: Netns,
    addresses: PodAddresses,
    rewritten: Rewritten,
    /// The daemon's own namespace.
    home: Arc<Netns>,
}

impl PodNetns {
    pub(super) fn new(
        pod: Netns,
        addresses: PodAddresses,
        rewritten: Rewritten,
        home: Arc<Netns>,
    ) -> Self {
        Self {
            pod,
            addresses,
            rewritten,
            home,
        }
    }

    /// Whether the pod's path still leads to this namespace. This handle keeps the namespace open
    /// after the runtime has removed it, so the caller has to ask.
    pub fn is_alive(&self) -> bool {
        self.pod.is_reachable()
    }

    /// Runs `work` in the pod's namespace, on a thread of its own.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        self.pod.run(work)
    }

    /// A TCP socket of the address's family, made in the pod's namespace: it stays there.
    fn socket(&self, ip: IpAddr) -> io::Result<Socket> {
        let domain = match ip {
            IpAddr::V4(_) => Domain::IPV4,
            IpAddr::V6(_) => Domain::IPV6,
        };
        self.pod.visit(&self.home, || {
            Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
        })
    }
}

impl PodSockets for PodNetns {
    fn asked_destination(&self, client: SocketAddr, dialled: SocketAddr) -> Option<SocketAddr> {
        self.rewritten.take(client, dialled)
    }

    fn upstream(&self, source: IpAddr, destination: SocketAddr) -> io::Result<TcpSocket> {
        let socket = self.socket(destination.ip())?;
        // The port is chosen by connect() here and below: it has to be free for this destination only.
        if source.is_ipv4() == destination.is_ipv4() && self.addresses.contains(source) {
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    fn last_hop(&self, client: IpAddr) -> io::Result<TcpSocket> {
        let client = client.to_canonical();
        let socket = self.socket(client)?;
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        if self.addresses.contains(client) {
            // The pod through its own service. `steer` lets it pass, and the kernel would not find
            // a socket that is bound to `lo` when the answer comes: between own addresses it shows
            // their interface.
            socket.bind(&SocketAddr::new(client, 0).into())?;
            return Ok(TcpSocket::from_std_stream(socket.into()));
        }
        match client {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
        // The application's answers have to come back here, although the client is elsewhere.
        socket.set_mark(MARK)?;
        // Without it `steer` would see the address's own interface, take this for a connection
        // from outside and give it back to the daemon.
        socket.bind_device(Some(b"lo"))?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}
