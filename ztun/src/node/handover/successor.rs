//! The new daemon's part: it asks, makes ready, and commits.

use std::{
    collections::BTreeMap, fs, io, net::SocketAddr, os::fd::OwnedFd, path::Path, time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    channel::{self, Channel},
    message::{FromPredecessor, FromSuccessor, HandedPod, NodeSocket, PROTOCOL},
    socket_of,
};
use crate::{proxy::PodListeners, redirect::own_netns};

/// A running daemon that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a running daemon hands over, if this one commits.
#[derive(Debug)]
pub struct Inheritance {
    channel: Channel,
    predecessor: Predecessor,
    /// Whether the predecessor serves all that it should.
    pub is_ready: bool,
    sockets: BTreeMap<NodeSocket, OwnedFd>,
    pods: Vec<(HandedPod, PodListeners)>,
}

/// The process that hands over.
#[derive(Clone, Debug)]
struct Predecessor {
    pid: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    #[error("the running daemon does not hand over: {0}")]
    Refused(String),
    #[error(
        "the running daemon (process {pid}) says nothing, and can't be ended from here ({why}): end it first"
    )]
    Hung { pid: i32, why: String },
    #[error("cannot take over from the running daemon: {0}")]
    Io(io::Error),
    #[error(
        "the running daemon keeps its records elsewhere: give both the same `stateDirectory`, or end it first"
    )]
    OtherState,
    #[error(
        "not ready to take over, and the running daemon goes on: {}", .0.join("; ")
    )]
    NotReady(Vec<String>),
}

/// Asks the daemon whose API is at `socket` to hand over; `None` if there is none, or none any more.
///
/// One that hangs is ended: what it carries hangs with it, and this daemon starts as after a crash.
/// Blocks.
pub fn ask(socket: &Path) -> Result<Option<Inheritance>, TakeOverError> {
    let channel = match Channel::connect(&socket_of(socket)) {
        Ok(channel) => channel,
        Err(error) if channel::is_absent(&error) => return Ok(None),
        Err(error) => return Err(TakeOverError::Io(error)),
    };
    let predecessor = Predecessor {
        pid: channel.peer().map_err(TakeOverError::Io)?.pid,
    };
    match converse(channel, &predecessor) {
        Ok(inheritance) => Ok(Some(inheritance)),
        Err(TakeOverError::Io(error)) if is_gone(&error) => {
            tracing::warn!(
                "the running daemon ended while it handed over: starting as after a crash"
            );
            Ok(None)
        }
        Err(TakeOverError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            predecessor.end()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn converse(channel: Channel, predecessor: &Predecessor) -> Result<Inheritance, TakeOverError> {
    let take_over = FromSuccessor::TakeOver {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        netns: own_netns()?,
    };
    channel.set_limit(PATIENCE)?;
    channel.send(&take_over, &[])?;
    let (answer, descriptors) = channel.receive()?;
    let (version, pid, is_ready, sockets, count) = match answer {
        FromPredecessor::Node {
            version,
            pid,
            ready,
            sockets,
            pods,
        } if sockets.len() == descriptors.len() => (version, pid, ready, sockets, pods),
        FromPredecessor::Refused { reason } => return Err(TakeOverError::Refused(reason)),
        other => return Err(unexpected(&other)),
    };
    let mut pods = Vec::new();
    for _ in 0..count {
        match channel.receive()? {
            (FromPredecessor::Pod(pod), descriptors) => {
                let listeners = pod.listeners(descriptors);
                let listeners =
                    listeners.ok_or_else(|| io::Error::other("listeners of a pod are missing"))?;
                pods.push((pod, listeners));
            }
            (other, _) => return Err(unexpected(&other)),
        }
    }
    tracing::info!(
        version,
        pid,
        pods = count,
        "taking over from a running daemon"
    );
    Ok(Inheritance {
        channel,
        predecessor: predecessor.clone(),
        is_ready,
        sockets: sockets.into_iter().zip(descriptors).collect(),
        pods,
    })
}

impl Inheritance {
    /// The pods, with the listeners of those that are served.
    pub fn pods(&self) -> impl Iterator<Item = &HandedPod> {
        self.pods.iter().map(|(pod, _)| pod)
    }

    pub fn take_pods(&mut self) -> Vec<(HandedPod, PodListeners)> {
        std::mem::take(&mut self.pods)
    }

    pub fn take(&mut self, socket: NodeSocket) -> Option<OwnedFd> {
        self.sockets.remove(&socket)
    }

    /// A TCP listener, if it is the one that this daemon is configured for.
    pub fn take_listener(
        &mut self,
        socket: NodeSocket,
        address: SocketAddr,
    ) -> Option<std::net::TcpListener> {
        let listener = std::net::TcpListener::from(self.take(socket)?);
        listener
            .local_addr()
            .is_ok_and(|bound| bound == address)
            .then_some(listener)
    }

    /// From here on all is this daemon's. Blocks until the predecessor has let go, or is no more.
    pub fn commit(self) -> Result<(), TakeOverError> {
        let committed = self
            .channel
            .send(&FromSuccessor::Commit, &[])
            .and_then(|()| self.channel.receive::<FromPredecessor>());
        match committed {
            Ok((FromPredecessor::Done, _)) => Ok(()),
            Ok((FromPredecessor::Refused { reason }, _)) => Err(TakeOverError::Refused(reason)),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(error) if is_gone(&error) => {
                tracing::warn!("the running daemon ended while it handed over");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.predecessor.end(),
            Err(error) => Err(error.into()),
        }
    }
}

impl Predecessor {
    /// Kills the process and waits for its end. It may have stopped in the middle of anything, and
    /// would go on with that beside this daemon.
    fn end(&self) -> Result<(), TakeOverError> {
        let hung = |why: String| TakeOverError::Hung { pid: self.pid, why };
        let io = |errno: rustix::io::Errno| hung(errno.to_string());
        let pid = Pid::from_raw(self.pid)
            .filter(|pid| *pid != rustix::process::getpid())
            .ok_or_else(|| hung("its process can't be seen".to_owned()))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(io)?;
        // Asked after it was opened: the number can't be another process's by now.
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        if name(&self.pid.to_string()) != name("self") {
            return Err(hung(
                "its process has another name than this one's".to_owned(),
            ));
        }
        tracing::error!(
            pid = self.pid,
            "the running daemon hangs: ending it, and starting as after a crash"
        );
        pidfd_send_signal(&process, Signal::KILL).map_err(io)?;
        let limit = Timespec::try_from(PATIENCE).map_err(|error| hung(error.to_string()))?;
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).map_err(io)?;
        if ended == 0 {
            return Err(hung("it does not die".to_owned()));
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn unexpected(message: &FromPredecessor) -> TakeOverError {
    TakeOverError::Io(io::Error::other(format!("unexpected answer {message:?}")))
}

impl From<io::Error> for TakeOverError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
