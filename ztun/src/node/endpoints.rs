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
    records::{LockError, StateLock},
    server::ApiServer,
    socket_file::SocketFile,
};
use crate::{config::Config, observe::http};

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
    pub admin: Option<TcpListener>,
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
                admin: match config.admin_address {
                    Some(address) => Some(http::listen(address, "admin").await?),
                    None => None,
                },
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
        let mut listen = async |socket, address, purpose| -> anyhow::Result<TcpListener> {
            Ok(match inheritance.take_listener(socket, address) {
                Some(listener) => TcpListener::from_std(listener)?,
                None => http::listen(address, purpose).await?,
            })
        };
        let (readiness, metrics) = (config.readiness_address, config.metrics_address);
        Ok(Self {
            lock,
            api,
            handover,
            readiness: listen(NodeSocket::Readiness, readiness, "readiness").await?,
            metrics: listen(NodeSocket::Metrics, metrics, "metrics").await?,
            admin: match config.admin_address {
                Some(address) => Some(listen(NodeSocket::Admin, address, "admin").await?),
                None => None,
            },
        })
    }

    pub fn files(&self) -> SocketFiles {
        SocketFiles([self.api.file(), self.handover.file()])
    }

    /// The same sockets by other descriptors, for a successor.
    pub fn try_clone(&self) -> io::Result<Vec<(NodeSocket, OwnedFd)>> {
        let listeners = [
            (NodeSocket::Readiness, Some(&self.readiness)),
            (NodeSocket::Metrics, Some(&self.metrics)),
            (NodeSocket::Admin, self.admin.as_ref()),
        ];
        let mut sockets = vec![
            (NodeSocket::Lock, self.lock.try_clone()?),
            (NodeSocket::Api, self.api.try_clone()?),
            (NodeSocket::Handover, self.handover.try_clone()?),
        ];
        for (socket, listener) in listeners {
            if let Some(listener) = listener {
                sockets.push((socket, listener.as_fd().try_clone_to_owned()?));
            }
        }
        Ok(sockets)
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
