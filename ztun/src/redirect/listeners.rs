//! The daemon's listening sockets in a pod.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use ztun_common::{Family, Listener, ListenerKey};

use crate::proxy::pod::PodListeners;

/// The kernel caps it at the namespace's `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The listeners' own addresses (RFC 5737, RFC 3849). No packet is delivered to them but through
/// `steer`: on loopback or a wildcard address the pod could connect to a listener directly.
const UNREACHABLE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UNREACHABLE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

#[derive(Debug, Error)]
#[error(
    "cannot listen in the pod for {listener:?} connections over IP{family:?}: {error}; the daemon needs CAP_NET_ADMIN"
)]
pub struct ListenError {
    listener: Listener,
    family: Family,
    error: io::Error,
}

/// Opens a pod's listeners in the calling thread's namespace.
pub fn open(families: &[Family]) -> Result<PodListeners, ListenError> {
    let open = |listener| -> Result<Vec<TcpListener>, ListenError> {
        families
            .iter()
            .map(|&family| {
                listen(family).map_err(|error| ListenError {
                    listener,
                    family,
                    error,
                })
            })
            .collect()
    };
    Ok(PodListeners {
        outbound: open(Listener::Outbound)?,
        inbound_plaintext: open(Listener::InboundPlaintext)?,
        inbound_hbone: open(Listener::InboundHbone)?,
    })
}

/// A pod's listeners with the keys that the kernel programs look for.
pub fn keyed(listeners: &PodListeners) -> impl Iterator<Item = (ListenerKey, &TcpListener)> {
    [
        (Listener::Outbound, &listeners.outbound),
        (Listener::InboundPlaintext, &listeners.inbound_plaintext),
        (Listener::InboundHbone, &listeners.inbound_hbone),
    ]
    .into_iter()
    .flat_map(|(listener, sockets)| sockets.iter().map(move |socket| (listener, socket)))
    .filter_map(|(listener, socket)| {
        let family = super::netlink::family_of(socket.local_addr().ok()?.ip());
        Some((ListenerKey::new(listener, family), socket))
    })
}

/// Those of the families of which not every listener is there.
pub fn lacking(families: &[Family], listeners: &PodListeners) -> Vec<Family> {
    let there: Vec<ListenerKey> = keyed(listeners).map(|(key, _)| key).collect();
    let is_whole = |family| {
        let mut keys = Listener::ALL
            .map(|listener| ListenerKey::new(listener, family))
            .into_iter();
        keys.all(|key| there.contains(&key))
    };
    let mut lacking: Vec<Family> = families
        .iter()
        .copied()
        .filter(|&it| !is_whole(it))
        .collect();
    lacking.sort_unstable();
    lacking.dedup();
    lacking
}

fn listen(family: Family) -> io::Result<TcpListener> {
    let (domain, ip) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::V4(UNREACHABLE_V4)),
        Family::V6 => (Domain::IPV6, IpAddr::V6(UNREACHABLE_V6)),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // What it accepts has the port that was dialled, which the application must be able to listen on.
    socket.set_reuse_address(true)?;
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true)?,
        Family::V6 => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
