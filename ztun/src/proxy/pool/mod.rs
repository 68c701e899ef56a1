//! Shared connections to peers' proxies: set up once, used by many tunnels.

mod slots;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use http::Request;
use time::OffsetDateTime;
use tokio::sync::watch;

use self::slots::{Acquired, ConnectionId, Slots};
use super::{
    error::{ProxyError, Retry},
    hbone::client::{self, Connection, Tunnel},
    pod::PodSockets,
    settings::ProxySettings,
};
use crate::{
    cert::{CertificateManager, trust::Peer},
    mesh::{Identity, PodName, WorkloadUid},
};

/// Which connections a tunnel may share: those of the same pod, address and identity to the same workload.
///
/// The UID keeps a tunnel from reaching another workload that got the same address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub source_pod: PodName,
    pub source: Identity,
    /// The application's, which its peer is to see.
    pub source_address: IpAddr,
    pub destination: WorkloadUid,
    pub destination_identity: Identity,
    pub address: SocketAddr,
}

#[derive(Debug)]
pub struct Pool {
    slots: Mutex<Slots<PoolKey, Connection, SetUp>>,
    certificates: Arc<CertificateManager>,
    settings: ProxySettings,
}

/// A set-up that others wait for. Ends with an error, or with nothing: then look again.
type SetUp = watch::Receiver<Option<ProxyError>>;

/// A tunnel, and its place in a pooled connection.
#[derive(Debug)]
pub struct PooledTunnel {
    pub tunnel: Tunnel,
    /// Who carries it.
    pub peer: Arc<Peer>,
    /// Held until the relay is over.
    pub lease: Lease,
}

#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    key: PoolKey,
    id: ConnectionId,
}

/// A peer may be replaced more than once while one CONNECT is under way.
const ATTEMPTS: usize = 5;

/// How often connections that are idle or were left behind are looked for.
const SWEEP: Duration = Duration::from_secs(5);

impl Pool {
    pub fn new(certificates: Arc<CertificateManager>, settings: ProxySettings) -> Arc<Self> {
        let pool = Arc::new(Self {
            slots: Mutex::default(),
            certificates,
            settings,
        });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        pool
    }

    /// Opens a tunnel in a pooled connection, or in a new one.
    ///
    /// A CONNECT that the peer did nothing with goes to another connection; one that may have got
    /// through and was never answered does so once, and to a connection made for it. No byte of
    /// the application is sent before the answer.
    pub async fn tunnel(
        self: &Arc<Self>,
        key: &PoolKey,
        sockets: &Arc<dyn PodSockets>,
        request: impl Fn() -> Request<()>,
    ) -> Result<PooledTunnel, ProxyError> {
        let mut was_unanswered = false;
        for _ in 1..ATTEMPTS {
            let outcome = self.attempt(key, sockets, request()).await;
            match outcome.as_ref().map_err(ProxyError::retry) {
                Err(Retry::Unprocessed) => {}
                Err(Retry::Unanswered) if !was_unanswered => was_unanswered = true,
                _ => return outcome,
            }
        }
        self.attempt(key, sockets, request()).await
    }

    /// Forgets a pod's connections: they take no more tunnels, and those that they have go on.
    pub fn forget_pod(&self, pod: &PodName) {
        self.slots().remove_keys(|key| key.source_pod == *pod);
    }

    async fn attempt(
        self: &Arc<Self>,
        key: &PoolKey,
        sockets: &Arc<dyn PodSockets>,
        request: Request<()>,
    ) -> Result<PooledTunnel, ProxyError> {
        let (connection, lease) = self.connection(key, sockets).await?;
        let limit = self.settings.timeouts.connect_response;
        match connection.open(request, limit).await {
            Ok(tunnel) => Ok(PooledTunnel {
                tunnel,
                peer: connection.peer,
                lease,
            }),
            Err(error) => {
                match error.retry() {
                    Retry::Unprocessed => drop(self.slots().remove(key, lease.id)),
                    // Where one connection is dead, so are the others to the same peer.
                    Retry::Unanswered => self.slots().remove_keys(|other| other == key),
                    Retry::Never => {}
                }
                Err(error)
            }
        }
    }

    async fn connection(
        self: &Arc<Self>,
        key: &PoolKey,
        sockets: &Arc<dyn PodSockets>,
    ) -> Result<(Connection, Lease), ProxyError> {
        loop {
            let mut set_up = match self.acquire(key) {
                Acquired::Connection(connection, id) => {
                    let lease = Lease {
                        pool: Arc::clone(self),
                        key: key.clone(),
                        id,
                    };
                    if self.certificates.trust().judge(&connection.peer).is_ok() {
                        return Ok((connection, lease));
                    }
                    // Whether the destination can be believed, another handshake shows.
                    let removed = self.slots().remove(key, id);
                    drop(removed);
                    continue;
                }
                Acquired::Wait(set_up) => set_up,
                Acquired::Connect(set_up, done) => {
                    // On its own: it goes on for the others when the first client gives up.
                    let set_up_one =
                        Arc::clone(self).set_up(key.clone(), Arc::clone(sockets), done);
                    tokio::spawn(set_up_one);
                    set_up
                }
            };
            // An error of the channel means that the set-up ended: look again.
            let _ = set_up.changed().await;
            if let Some(error) = set_up.borrow().clone() {
                return Err(error);
            }
        }
    }

    fn acquire(
        &self,
        key: &PoolKey,
    ) -> Acquired<Connection, SetUp, watch::Sender<Option<ProxyError>>> {
        let limit = self.settings.streams_per_connection;
        let room = |connection: &Connection| connection.peer_limit().min(limit);
        let mut done = None;
        let acquired = self.slots().acquire(key, room, || {
            let (sender, set_up) = watch::channel(None);
            done = Some(sender);
            set_up
        });
        match (acquired, done) {
            (Acquired::Connect(set_up, ()), Some(done)) => Acquired::Connect(set_up, done),
            (Acquired::Connect(set_up, ()), None) | (Acquired::Wait(set_up), _) => {
                Acquired::Wait(set_up)
            }
            (Acquired::Connection(connection, id), _) => Acquired::Connection(connection, id),
        }
    }

    /// Every stage in it is bounded, so that it ends.
    async fn set_up(
        self: Arc<Self>,
        key: PoolKey,
        sockets: Arc<dyn PodSockets>,
        done: watch::Sender<Option<ProxyError>>,
    ) {
        let connected = async {
            let certificate = self.certificates.certificate(&key.source).await;
            let certificate = certificate.map_err(ProxyError::Certificate)?;
            let timeouts = &self.settings.timeouts;
            let socket = sockets.upstream(key.source_address, key.address);
            let expected = &key.destination_identity;
            client::connect(socket, key.address, &certificate, expected, timeouts).await
        };
        match connected.await {
            Ok((connection, driver)) => {
                let id = self.slots().connected(&key, connection, Instant::now());
                drop(done);
                let reason = driver.await;
                tracing::debug!(address = %key.address, %reason, "tunnel connection over");
                self.slots().remove(&key, id);
            }
            Err(error) => {
                self.slots().failed(&key);
                done.send_replace(Some(error));
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots<PoolKey, Connection, SetUp>> {
        // No code that can panic leaves the slots half-changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool
            .slots()
            .release(&self.key, self.id, Instant::now());
    }
}

/// Connections with a certificate that has been renewed take no more tunnels, nor do those of peers
/// that aren't trusted any more: what goes on in them goes on.
async fn sweep(pool: Weak<Pool>) {
    let Some((mut issued, mut trusted)) = pool.upgrade().map(|pool| {
        let certificates = &pool.certificates;
        (certificates.changes(), certificates.trust().changes())
    }) else {
        return;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            Ok(()) = issued.changed() => {}
            Ok(()) = trusted.changed() => {}
        }
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let now = OffsetDateTime::now_utc();
        let idle = pool.settings.pool_idle;
        let certificates = &pool.certificates;
        let expired = |key: &PoolKey, connection: &Connection| {
            connection.expires <= now
                || !certificates.is_newest(&key.source, &connection.serial)
                || certificates.trust().judge(&connection.peer).is_err()
        };
        let removed = pool.slots().sweep(Instant::now(), idle, expired);
        // Dropped outside of the lock: closing a connection takes other locks.
        drop(removed);
    }
}
