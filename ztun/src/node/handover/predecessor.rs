//! The running daemon's part: it goes on serving until a successor commits.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::net::UnixListener;

use super::{
    channel::{self, Channel},
    message::{FromPredecessor, FromSuccessor, HandedPod, NodeSocket, PROTOCOL},
};
use crate::{
    node::{
        pods::{Handing, Pods, run_blocking},
        readiness::Readiness,
        server::BindError,
        socket_file::SocketFile,
    },
    proxy::PodListeners,
    redirect::own_netns,
};

/// For a successor's first words.
const GREETING: Duration = Duration::from_secs(5);
/// For a successor's preparations. Nobody is enrolled meanwhile.
const PREPARATION: Duration = Duration::from_mins(1);

/// Listens for successors.
#[derive(Debug)]
pub struct HandoverServer {
    /// Of whole messages; tokio knows the family only, and needs no more.
    listener: UnixListener,
    file: Arc<SocketFile>,
}

/// What there is to hand over.
#[derive(Debug)]
pub struct Heritage {
    pub pods: Arc<Pods>,
    pub readiness: Arc<Readiness>,
    pub sockets: Vec<(NodeSocket, OwnedFd)>,
}

/// A successor that has committed, and waits for this daemon to let go.
#[derive(Debug)]
pub struct HandedOver {
    channel: Channel,
    pub to: String,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error("nothing was asked")]
    Mute,
    #[error("the successor's process is gone")]
    Gone,
    #[error("the successor said nothing in time")]
    Silent,
    #[error(transparent)]
    Io(io::Error),
}

impl Heritage {
    pub fn new(
        pods: &Arc<Pods>,
        readiness: &Arc<Readiness>,
        sockets: Vec<(NodeSocket, OwnedFd)>,
    ) -> Self {
        Self {
            pods: pods.clone(),
            readiness: readiness.clone(),
            sockets,
        }
    }
}

impl HandoverServer {
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let file = SocketFile::prepare(path)?;
        let listener = channel::listen_at(path).map_err(|source| BindError::io(path, source))?;
        file.restrict()?;
        Self::new(listener, file).map_err(|source| BindError::io(path, source))
    }

    /// Goes on with a predecessor's listener.
    pub fn inherited(listener: OwnedFd, path: &Path) -> Result<Self, BindError> {
        Self::new(listener, SocketFile::inherited(path))
            .map_err(|source| BindError::io(path, source))
    }

    /// From now on, whoever connects sees this process as the one that listens.
    pub fn take(&self) -> Result<(), BindError> {
        channel::listen_again(&self.listener)
            .map_err(|source| BindError::io(self.file.path(), source))
    }

    fn new(listener: OwnedFd, file: Arc<SocketFile>) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(listener.into())?,
            file,
        })
    }

    pub fn file(&self) -> Arc<SocketFile> {
        Arc::clone(&self.file)
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Answers successors, one at a time, until one has committed.
    pub async fn serve(self: Arc<Self>, heritage: Arc<Heritage>) -> HandedOver {
        let busy = Arc::new(AtomicBool::new(false));
        let (sender, mut committed) = tokio::sync::mpsc::channel(1);
        loop {
            let channel = tokio::select! {
                Some(handed_over) = committed.recv() => return handed_over,
                accepted = self.accept() => match accepted {
                    Ok(channel) => channel,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a successor");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (heritage, busy, sender) = (heritage.clone(), busy.clone(), sender.clone());
            tokio::task::spawn_local(async move {
                match run_blocking(move || converse(channel, &heritage, &busy)).await {
                    Ok(handed_over) => {
                        // It is received as long as anybody serves here.
                        let _ = sender.send(handed_over).await;
                    }
                    Err(Failure::Mute) => tracing::debug!("a successor went without a word"),
                    Err(error) => {
                        tracing::warn!(%error, "nothing was handed over: this daemon goes on");
                    }
                }
            });
        }
    }

    async fn accept(&self) -> io::Result<Channel> {
        let (accepted, _) = self.listener.accept().await?;
        let accepted = accepted.into_std()?;
        accepted.set_nonblocking(false)?;
        Ok(Channel::accepted(accepted.into()))
    }
}

impl HandedOver {
    /// Tells the successor that all is its own.
    pub async fn done(self) {
        let told = run_blocking(move || self.channel.send(&FromPredecessor::Done, &[])).await;
        if let Err(error) = told {
            // It has everything, and takes this daemon for dead.
            tracing::warn!(%error, "cannot tell the successor");
        }
    }
}

fn converse(
    channel: Channel,
    heritage: &Heritage,
    busy: &AtomicBool,
) -> Result<HandedOver, Failure> {
    let refuse = |reason: String| {
        // A successor that is gone need not be told.
        let _ = channel.send(
            &FromPredecessor::Refused {
                reason: reason.clone(),
            },
            &[],
        );
        Err(Failure::Refused(reason))
    };
    channel.set_limit(GREETING)?;
    let peer = channel.peer()?;
    if peer.uid != nix::unistd::geteuid().as_raw() {
        return refuse(format!("user {} may not take over", peer.uid));
    }
    let greeting = channel.receive().map_err(|_| Failure::Mute)?;
    let (
        FromSuccessor::TakeOver {
            protocol,
            version,
            netns,
        },
        _,
    ) = greeting
    else {
        return refuse("a successor commits to nothing".to_owned());
    };
    if protocol != PROTOCOL {
        return refuse(format!(
            "the running daemon (version {}) hands over by protocol {PROTOCOL}, and version {version} by {protocol}: end the running one first",
            env!("CARGO_PKG_VERSION")
        ));
    }
    if netns != own_netns()? {
        return refuse("the new daemon is in another network namespace".to_owned());
    }
    let Some(claim) = Claim::make(busy) else {
        return refuse("another daemon is taking over at this moment".to_owned());
    };
    tracing::info!(version, pid = peer.pid, "another daemon asks to take over");
    let handing = heritage.pods.hand_over();
    offer(&channel, heritage, &handing)?;
    channel.set_limit(PREPARATION)?;
    match channel.receive()? {
        (FromSuccessor::Commit, _) => {
            handing.commit();
            claim.keep();
            Ok(HandedOver {
                channel,
                to: version,
            })
        }
        (FromSuccessor::TakeOver { .. }, _) => refuse("asked twice".to_owned()),
    }
}

/// One successor at a time.
struct Claim<'a>(&'a AtomicBool);

impl<'a> Claim<'a> {
    fn make(busy: &'a AtomicBool) -> Option<Self> {
        (!busy.swap(true, Ordering::Relaxed)).then_some(Self(busy))
    }

    /// This daemon has nothing to hand over any more.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn offer(channel: &Channel, heritage: &Heritage, handing: &Handing<'_>) -> Result<(), Failure> {
    let pods = handing.pods();
    let (sockets, descriptors): (Vec<_>, Vec<_>) = heritage
        .sockets
        .iter()
        .map(|(socket, descriptor)| (*socket, descriptor.as_fd()))
        .unzip();
    let node = FromPredecessor::Node {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: heritage.readiness.missing().is_empty(),
        sockets,
        pods: pods.len(),
    };
    channel.send(&node, &descriptors)?;
    for (entry, is_former) in pods {
        let listeners = if is_former {
            PodListeners::default()
        } else {
            handing.listeners(&entry.sandbox.pod)?
        };
        let descriptors: Vec<_> = [
            &listeners.outbound,
            &listeners.inbound_plaintext,
            &listeners.inbound_hbone,
        ]
        .into_iter()
        .flatten()
        .map(std::os::fd::AsFd::as_fd)
        .collect();
        let pod = HandedPod::new(entry.sandbox.clone(), entry.origin, is_former, &listeners);
        channel.send(&FromPredecessor::Pod(pod), &descriptors)?;
    }
    Ok(())
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Gone,
            io::ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Io(error),
        }
    }
}
