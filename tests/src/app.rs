//! Small applications for pods.

use std::{
    future::Future,
    io,
    net::{IpAddr, Shutdown, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::{pod::Pod, wait};

/// A server in a pod. Dropping it closes the listener; its connections go on.
pub struct App {
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    accept: JoinHandle<()>,
    listener: Socket,
}

impl App {
    pub(crate) fn start<F, Served>(listener: TcpListener, handle: Arc<F>) -> io::Result<Self>
    where
        F: Fn(TcpStream, SocketAddr) -> Served + Send + Sync + 'static,
        Served: Future<Output = io::Result<()>> + Send + 'static,
    {
        let closed_on_drop = SockRef::from(&listener).try_clone()?;
        let peers = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let seen = Arc::clone(&peers);
        let accept = tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let peer = canonical(peer);
                lock(&seen).push(peer);
                // What a connection ends with is for its client to judge.
                tokio::spawn(handle(stream, peer));
            }
        });
        Ok(Self {
            peers,
            accept,
            listener: closed_on_drop,
        })
    }

    /// The clients so far, in the order in which they were accepted; IPv4 ones as IPv4.
    pub fn peers(&self) -> Vec<SocketAddr> {
        lock(&self.peers).clone()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accept.abort();
        // The task goes in its own time; the port is free, and refuses connections, at once.
        let closed = self.listener.shutdown(Shutdown::Both);
        debug_assert!(closed.is_ok(), "close a listener: {closed:?}");
    }
}

impl Pod {
    /// Sends back what it receives, and closes when the client does.
    pub fn echo(&self, port: u16) -> io::Result<App> {
        self.serve(port, |stream: TcpStream, _| async move {
            let (mut read, mut write) = stream.into_split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
    }

    /// Speaks first: sends `greeting`, then echoes.
    pub fn greet(&self, port: u16, greeting: &'static str) -> io::Result<App> {
        self.serve(port, move |stream: TcpStream, _| async move {
            let (mut read, mut write) = stream.into_split();
            write.write_all(greeting.as_bytes()).await?;
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        })
    }

    /// Answers each connection with the address of its client, and closes.
    pub fn who_am_i(&self, port: u16) -> io::Result<App> {
        self.serve(port, |mut stream: TcpStream, peer: SocketAddr| async move {
            stream.write_all(peer.to_string().as_bytes()).await?;
            stream.shutdown().await
        })
    }

    /// Reads `after` bytes of each connection, then resets it.
    pub fn reset_after(&self, port: u16, after: usize) -> io::Result<App> {
        self.serve(port, move |mut stream: TcpStream, _| async move {
            stream.read_exact(&mut vec![0; after]).await?;
            reset(stream)
        })
    }
}

impl Pod {
    /// The address that a server started by [`who_am_i`](Self::who_am_i) sees of this pod.
    pub async fn seen_by(&self, server: SocketAddr) -> Result<SocketAddr> {
        let mut seen = String::new();
        let mut stream = self.connect(server).await?;
        stream.read_to_string(&mut seen).await?;
        Ok(seen.parse()?)
    }
}

/// Closes a connection with a reset.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Sends `text`, and reads as many bytes back.
pub async fn exchange(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `::ffff:a.b.c.d` as `a.b.c.d`.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one ICMP echo request, and waits for its reply.
pub async fn ping(pod: &Pod, to: IpAddr) -> Result<()> {
    const IDENTIFIER: [u8; 2] = *b"zt";
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let socket = pod.icmp(to)?;
    let mut message = [request, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], 0, 1];
    // The kernel fills in the checksum of ICMPv6 alone, which covers the addresses too.
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum);
    socket.send(&message).await?;
    let mut answer = [0; 128];
    loop {
        let received = timeout(wait::PATIENCE, socket.recv(&mut answer));
        let length = received.await.context("no answer to a ping")??;
        // A raw IPv4 socket shows the IP header, too.
        let header = if to.is_ipv4() { 20 } else { 0 };
        let icmp = answer[..length].get(header..).unwrap_or_default();
        if icmp.first() == Some(&reply) && icmp.get(4..6) == Some(&IDENTIFIER) {
            return Ok(());
        }
    }
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(message: &[u8]) -> [u8; 2] {
    let words = message.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let [_, _, high, low] = (!(sum + (sum >> 16))).to_be_bytes();
    [high, low]
}
