//! A process that is no pod's: of the node, or wherever a test puts one.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::Result;
use socket2::{Domain, Type};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{cgroup::Cgroup, namespace::Netns, sockets::SocketMaker};

/// A connection that takes longer hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A process in a network namespace and a cgroup, whose sockets tests use. Dropping it ends it.
pub struct Process {
    sockets: SocketMaker,
}

impl Process {
    pub fn start(netns: &Netns, cgroup: &Cgroup) -> Result<Self> {
        let sockets = SocketMaker::start(netns, cgroup, None)?;
        Ok(Self { sockets })
    }

    pub fn pid(&self) -> u32 {
        self.sockets.pid()
    }

    /// A TCP socket for connections to `to`, non-blocking, neither bound nor connected.
    pub fn tcp_socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        tcp_socket(&self.sockets, to)
    }

    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect(&self.sockets, to).await
    }

    /// As [`Pod::failure`](crate::Pod::failure).
    pub async fn failure(&self, to: SocketAddr) -> Option<io::ErrorKind> {
        failure(&self.sockets, to).await
    }
}

pub(crate) fn tcp_socket(sockets: &SocketMaker, to: SocketAddr) -> io::Result<TcpSocket> {
    let socket = sockets.socket(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

pub(crate) async fn connect(sockets: &SocketMaker, to: SocketAddr) -> io::Result<TcpStream> {
    within(CONNECT_TIMEOUT, tcp_socket(sockets, to)?.connect(to)).await
}

pub(crate) async fn failure(sockets: &SocketMaker, to: SocketAddr) -> Option<io::ErrorKind> {
    let attempt = async {
        let mut stream = tcp_socket(sockets, to)?.connect(to).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let end = within(CONNECT_TIMEOUT, attempt).await;
    end.err().map(|error| error.kind())
}

async fn within<T>(limit: Duration, action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, action)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}
