//! Where the daemon is reached: its sockets, and the lock of its state directory. New ones, or a
//! predecessor's.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, time::sleep};

use super::{
    handover::{HandoverServer, Inheritance, NodeSocket, TakeOverError, socket_of},
    http,
    records::{LockError, StateLock},
    server::ApiServer,
    socket_file::SocketFile,
};
use crate::config::Config;

/// A daemon that is ending lets go of its lock last.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Endpoints {
    pub lock: StateLock,
    pub api: ApiServer,
    pub handover: HandoverServer,
    pub readiness: TcpListener,
    pub metrics: TcpListener,
}

/// The paths of a daemon's sockets.
#[derive(Debug)]
pub struct SocketFiles([Arc<SocketFile>; 2]);

impl Endpoints {
    /// A predecessor's stay its own until [`SocketFiles::take`].
    pub async fn open(
        config: &Config,
        inheritance: Option<&mut Inheritance>,
    ) -> anyhow::Result<Self> {
        let path = &config.socket;
        let handover_path = socket_of(path);
        let Some(inheritance) = inheritance else {
            let lock = lock(config).await?;
            return Ok(Self {
                lock,
                api: ApiServer::bind(path)?,
                handover: HandoverServer::bind(&handover_path)?,
                readiness: http::listen(config.readiness_address, "readiness").await?,
                metrics: http::listen(config.metrics_address, "metrics").await?,
            });
        };
        let lock = inheritance
            .take(NodeSocket::Lock)
            .and_then(|lock| StateLock::inherited(lock, &config.state_directory))
            .ok_or(TakeOverError::OtherState)?;
        let api = match inheritance.take(NodeSocket::Api) {
            Some(listener) => ApiServer::inherited(listener, path)?,
            None => ApiServer::bind(path)?,
        };
        let handover = match inheritance.take(NodeSocket::Handover) {
            Some(listener) => HandoverServer::inherited(listener, &handover_path)?,
            None => HandoverServer::bind(&handover_path)?,
        };
        let mut listeners = Vec::new();
        for (socket, address, purpose) in [
            (NodeSocket::Readiness, config.readiness_address, "readiness"),
            (NodeSocket::Metrics, config.metrics_address, "metrics"),
        ] {
            listeners.push(match inheritance.take_listener(socket, address) {
                Some(listener) => TcpListener::from_std(listener)?,
                None => http::listen(address, purpose).await?,
            });
        }
        let [readiness, metrics] = <[TcpListener; 2]>::try_from(listeners)
            .map_err(|_| io::Error::other("two listeners were opened"))?;
        Ok(Self {
            lock,
            api,
            handover,
            readiness,
            metrics,
        })
    }

    pub fn files(&self) -> SocketFiles {
        SocketFiles([self.api.file(), self.handover.file()])
    }

    /// The same sockets by other descriptors, for a successor.
    pub fn try_clone(&self) -> io::Result<Vec<(NodeSocket, OwnedFd)>> {
        Ok(vec![
            (NodeSocket::Lock, self.lock.try_clone()?),
            (NodeSocket::Api, self.api.try_clone()?),
            (NodeSocket::Handover, self.handover.try_clone()?),
            (
                NodeSocket::Readiness,
                self.readiness.as_fd().try_clone_to_owned()?,
            ),
            (
                NodeSocket::Metrics,
                self.metrics.as_fd().try_clone_to_owned()?,
            ),
        ])
    }
}

impl SocketFiles {
    pub fn take(&self) {
        self.0.iter().for_each(|file| file.take());
    }

    pub fn hand_over(&self) {
        self.0.iter().for_each(|file| file.hand_over());
    }
}

async fn lock(config: &Config) -> Result<StateLock, LockError> {
    for _ in 1..LOCK_ATTEMPTS {
        match StateLock::take(&config.state_directory) {
            Err(LockError::InUse { .. }) => sleep(LOCK_INTERVAL).await,
            result => return result,
        }
    }
    StateLock::take(&config.state_directory)
}
