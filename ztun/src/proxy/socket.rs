//! Options of the proxy's TCP sockets, and connecting within a time limit.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::error::{ProxyError, Stage, Target};

/// The peer's values.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(3);
const KEEPALIVE_PROBES: u32 = 9;

/// No delay, keepalive, and a reset on close: whatever ends before [`finish`] was not
/// finished, also when the process dies, and must not look like a complete stream.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// From now on a close lets the kernel deliver what was written.
pub fn finish(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

pub fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        // The other side has already reset: its error is seen by who reads.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// Connects and prepares `socket` within `limit`.
pub async fn connect(
    socket: io::Result<TcpSocket>,
    target: Target,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, ProxyError> {
    let socket = socket.map_err(|cause| ProxyError::socket(address, cause))?;
    let failed = |cause| ProxyError::Connect {
        target,
        address,
        cause: Arc::new(cause),
    };
    let stream = tokio::time::timeout(limit, socket.connect(address))
        .await
        .map_err(|_| ProxyError::Timeout {
            target,
            stage: Stage::TcpConnect,
            address,
            waited: limit,
        })?
        .map_err(failed)?;
    prepare(&stream).map_err(failed)?;
    Ok(stream)
}
