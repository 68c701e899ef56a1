//! Connections that a daemon makes itself, from inside a pod's network namespace, to see whether they reach it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Nobody's addresses (RFC 5737, RFC 3849), to which no application connects.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
/// The discard service's.
const PORT: u16 = 9;

/// Where such connections go.
pub const DESTINATION_V4: SocketAddr = SocketAddr::new(V4, PORT);
pub const DESTINATION_V6: SocketAddr = SocketAddr::new(V6, PORT);

/// By which the daemon knows that it was the daemon that answered.
pub const ANSWER: [u8; 4] = *b"ztun";

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

pub fn is_meant(dialled: SocketAddr) -> bool {
    [DESTINATION_V4, DESTINATION_V6].contains(&dialled)
}

/// Answers, and waits until the other end has closed.
pub async fn answer(mut stream: TcpStream) {
    let answering = async {
        stream.write_all(&ANSWER).await?;
        stream.read(&mut [0]).await
    };
    // Whoever asked sees for itself what it got.
    let _ = timeout(PATIENCE, answering).await;
}
