//! The connections that are open now: for `ztun status`, for closing those that policy no longer allows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    access_log::{self, Bytes, Remarks},
    claimed::{ClaimedWorkload, ClaimedWorkloads},
    denials::Denials,
    flow::{Direction, Flow, Party, Security},
    metrics::{ConnectionMetrics, Metrics},
};
use crate::{
    cert::trust::Peer,
    mesh::{Identity, PodName, policy::authorization::AuditFinding},
    proxy::ProxyError,
};

#[derive(Debug, Default)]
pub struct Connections {
    metrics: Metrics,
    denials: Denials,
    claimed: ClaimedWorkloads,
    open: Mutex<BTreeMap<u64, Arc<OpenConnection>>>,
    next: AtomicU64,
}

/// One connection from its start to its access-log line.
#[derive(Debug)]
pub struct OpenConnection {
    id: u64,
    flow: Flow,
    metrics: ConnectionMetrics,
    started: Instant,
    since: OffsetDateTime,
    to_destination: AtomicU64,
    to_source: AtomicU64,
    close: CancellationToken,
    close_reason: OnceLock<ProxyError>,
    audit: OnceLock<String>,
    peer: OnceLock<Arc<Peer>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    pub direction: Direction,
    pub source: PartyStatus,
    pub destination: PartyStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hbone_address: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    pub security: Security,
    /// Whether its bytes are under mutual TLS on the network.
    pub encrypted: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    pub bytes_to_destination: u64,
    pub bytes_to_source: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartyStatus {
    pub address: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

impl Connections {
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Counts and lists a connection. It is closed by [`Self::finish`].
    pub fn open(&self, flow: Flow) -> Arc<OpenConnection> {
        let connection = Arc::new(OpenConnection {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            metrics: self.metrics.opened(&flow),
            flow,
            started: Instant::now(),
            since: OffsetDateTime::now_utc(),
            to_destination: AtomicU64::new(0),
            to_source: AtomicU64::new(0),
            close: CancellationToken::new(),
            close_reason: OnceLock::new(),
            audit: OnceLock::new(),
            peer: OnceLock::new(),
        });
        self.table().insert(connection.id, Arc::clone(&connection));
        connection
    }

    /// Counts what policies say of the connection that decide nothing, and keeps it for its line in
    /// the access log.
    pub fn audited(&self, connection: &OpenConnection, findings: &[AuditFinding]) {
        if findings.is_empty() {
            return;
        }
        for finding in findings {
            self.metrics.audited(finding);
        }
        let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
        // Told once: what an open connection would be judged later is not counted again.
        let _ = connection.audit.set(findings.join("; "));
    }

    /// Counts, logs and forgets a connection.
    pub fn finish(&self, connection: &OpenConnection, outcome: &Result<(), ProxyError>) {
        self.table().remove(&connection.id);
        connection.metrics.closed();
        let error = outcome.as_ref().err();
        if let Some(error) = error {
            self.metrics.failed(&connection.flow, error.flag());
        }
        let mut suppressed = None;
        if let Some(denial) = error.and_then(ProxyError::denial) {
            self.metrics.denied(denial);
            suppressed = self.denials.admit(&connection.flow, denial, Instant::now());
            if suppressed.is_none() {
                return;
            }
        }
        let remarks = Remarks {
            error: error.map(|error| error as &dyn std::fmt::Display),
            audit: connection.audit.get().map(String::as_str),
            suppressed,
        };
        let duration = connection.started.elapsed();
        access_log::connection_complete(&connection.flow, connection.bytes(), duration, remarks);
    }

    /// A workload's own words for telemetry, unless there are too many different ones already.
    pub fn claimed(&self, claim: ClaimedWorkload) -> Option<Arc<ClaimedWorkload>> {
        self.claimed.admit(claim)
    }

    pub fn all(&self) -> Vec<Arc<OpenConnection>> {
        self.table().values().cloned().collect()
    }

    pub fn status(&self) -> Vec<ConnectionStatus> {
        self.table().values().map(|open| open.status()).collect()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OpenConnection>>> {
        // No code that can panic leaves the map half-changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    pub fn sent_to_destination(&self, bytes: usize) {
        self.to_destination
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.to_destination(bytes as u64);
    }

    pub fn sent_to_source(&self, bytes: usize) {
        self.to_source.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.to_source(bytes as u64);
    }

    /// Says whose connection carries it. Told once: a tunnel stays where it is.
    pub fn carried_by(&self, peer: Arc<Peer>) {
        let _ = self.peer.set(peer);
    }

    /// The proxy at the other end of its tunnel, if it is in one.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.get().map(|peer| &**peer)
    }

    /// Asks for its end; the first reason counts.
    pub fn close(&self, reason: ProxyError) {
        let _ = self.close_reason.set(reason);
        self.close.cancel();
    }

    /// Resolves, with the reason, when somebody asks for its end.
    pub async fn closed(&self) -> ProxyError {
        self.close.cancelled().await;
        self.close_reason
            .get()
            .cloned()
            .unwrap_or(ProxyError::ShuttingDown)
    }

    fn bytes(&self) -> Bytes {
        Bytes {
            to_destination: self.to_destination.load(Ordering::Relaxed),
            to_source: self.to_source.load(Ordering::Relaxed),
        }
    }

    fn status(&self) -> ConnectionStatus {
        let bytes = self.bytes();
        ConnectionStatus {
            direction: self.flow.direction,
            source: PartyStatus::of(&self.flow.source),
            destination: PartyStatus::of(&self.flow.destination),
            hbone_address: self.flow.hbone_address,
            service: self.flow.service.as_ref().map(|s| Arc::clone(&s.hostname)),
            security: self.flow.security,
            encrypted: self.flow.security == Security::MutualTls,
            since: self.since,
            bytes_to_destination: bytes.to_destination,
            bytes_to_source: bytes.to_source,
        }
    }
}

impl PartyStatus {
    fn of(party: &Party) -> Self {
        Self {
            address: party.address,
            pod: party.workload.as_ref().map(|w| w.pod.clone()),
            identity: party.identity.clone(),
        }
    }
}
