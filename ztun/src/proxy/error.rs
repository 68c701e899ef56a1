//! Why a connection failed: what was being done, to whom, and what to look at.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;

use crate::{
    cert::{
        CertificateError, PeerError, describe_tls_error,
        tls::{is_revoked, tls_error},
        trust::Distrusted,
    },
    mesh::{Denial, PodName},
    observe::ResponseFlag,
};

/// Cloneable, because every stream that waits for one connection's set-up fails with its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "pod {pod} is not in the mesh state after {waited:?}: check that the source of mesh state is reachable and knows the pod"
    )]
    UnknownPod { pod: PodName, waited: Duration },
    #[error("{0}")]
    Denied(Denial),
    #[error("{reason}")]
    Unavailable { reason: String },
    #[error("port {} of {address} is the proxy's own: refused, or traffic could loop", address.port())]
    ReservedPort { address: SocketAddr },
    #[error(transparent)]
    Certificate(CertificateError),
    #[error("can't open a socket for {address} in the pod's network namespace: {cause}")]
    Socket {
        address: SocketAddr,
        cause: Arc<io::Error>,
    },
    #[error("connect to {address} failed: {cause}{hint}", hint = .target.refused_hint())]
    Connect {
        target: Target,
        address: SocketAddr,
        cause: Arc<io::Error>,
    },
    #[error("{stage} with {address} timed out after {waited:?}{hint}", hint = .target.timeout_hint(*.stage, .address))]
    Timeout {
        target: Target,
        stage: Stage,
        address: SocketAddr,
        waited: Duration,
    },
    #[error("TLS handshake with {address} failed: {reason}")]
    Tls {
        address: SocketAddr,
        reason: String,
        fault: TlsFault,
    },
    #[error("HTTP/2 handshake with {address} failed: {reason}")]
    Http2 {
        address: SocketAddr,
        reason: String,
        retry: Retry,
    },
    #[error("{address} refused the tunnel: its policy denied it ({})", status.as_u16())]
    DeniedByPeer {
        address: SocketAddr,
        status: StatusCode,
    },
    #[error("{address} refused the tunnel with status {status}{hint}", hint = status_hint(*.status))]
    RefusedByPeer {
        address: SocketAddr,
        status: StatusCode,
    },
    #[error("the tunnel's connection to {address} broke before it answered: {reason}")]
    TunnelLost {
        address: SocketAddr,
        reason: String,
        /// Whether another connection may answer: nothing of the application was sent yet.
        retry: Retry,
    },
    #[error("reset by the {side}: {reason}")]
    Reset { side: Side, reason: String },
    #[error("no longer allowed: {0}")]
    Revoked(Denial),
    #[error(transparent)]
    Distrusted(#[from] Distrusted),
    #[error("the pod was removed from the mesh")]
    PodRemoved,
    #[error("the proxy is shutting down")]
    ShuttingDown,
}

/// What is being connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The application itself, or a destination outside of the mesh.
    Application,
    /// The proxy of a workload in the mesh.
    Hbone,
}

/// A part of setting up a connection, each with a time limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    TcpConnect,
    TlsHandshake,
    Http2Handshake,
    ConnectResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The peer is not who it must be.
    Identity,
    Revoked,
    Handshake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The peer has done nothing with the request (RFC 9113 §6.8 and §8.7), or never got it.
    Unprocessed,
    /// The peer may have acted on it, but nothing of the application was sent.
    Unanswered,
    Never,
}

/// Whose end of the connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that opened the connection.
    Downstream,
    /// The one that it was opened to.
    Upstream,
}

impl ProxyError {
    /// Whether another connection to the peer may do better.
    pub fn retry(&self) -> Retry {
        match self {
            Self::TunnelLost { retry, .. } | Self::Http2 { retry, .. } => *retry,
            _ => Retry::Never,
        }
    }

    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::Denied(_) | Self::Revoked(_) | Self::DeniedByPeer { .. } => ResponseFlag::Deny,
            Self::Distrusted(Distrusted { revoked: true, .. }) => ResponseFlag::CertificateRevoked,
            Self::Certificate(_) | Self::Distrusted(_) => ResponseFlag::IdentityError,
            Self::Tls { fault, .. } => match fault {
                TlsFault::Identity => ResponseFlag::IdentityError,
                TlsFault::Revoked => ResponseFlag::CertificateRevoked,
                TlsFault::Handshake => ResponseFlag::TlsFailure,
            },
            Self::Http2 { .. } => ResponseFlag::Http2HandshakeFailure,
            Self::Timeout { target, stage, .. } => match (target, stage) {
                (Target::Hbone, Stage::TcpConnect) => ResponseFlag::NetworkPolicy,
                (_, Stage::TlsHandshake) => ResponseFlag::TlsFailure,
                (_, Stage::Http2Handshake) => ResponseFlag::Http2HandshakeFailure,
                (_, Stage::TcpConnect | Stage::ConnectResponse) => ResponseFlag::Connect,
            },
            Self::UnknownPod { .. }
            | Self::Unavailable { .. }
            | Self::ReservedPort { .. }
            | Self::Socket { .. }
            | Self::Connect { .. }
            | Self::RefusedByPeer { .. }
            | Self::TunnelLost { .. }
            | Self::Reset { .. }
            | Self::PodRemoved
            | Self::ShuttingDown => ResponseFlag::Connect,
        }
    }

    /// What policy had against the connection, if that is it.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Denied(denial) | Self::Revoked(denial) => Some(denial),
            _ => None,
        }
    }

    /// Whether an endpoint could not be reached, so that another one may serve: neither a word of policy
    /// nor of who the peer is.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Timeout {
                stage: Stage::TcpConnect,
                ..
            }
            | Self::TunnelLost {
                retry: Retry::Unprocessed | Retry::Unanswered,
                ..
            } => true,
            // What a proxy answers whose application is not there.
            Self::RefusedByPeer { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }

    pub(super) fn socket(address: SocketAddr, cause: io::Error) -> Self {
        Self::Socket {
            address,
            cause: Arc::new(cause),
        }
    }

    pub(super) fn tls(address: SocketAddr, error: &io::Error) -> Self {
        let fault = match tls_error(error) {
            Some(error) if PeerError::of(error).is_some() => TlsFault::Identity,
            Some(_) if is_revoked(error) => TlsFault::Revoked,
            _ => TlsFault::Handshake,
        };
        Self::Tls {
            address,
            reason: describe_tls_error(error),
            fault,
        }
    }

    /// What came instead of the peer's first HTTP/2: with TLS 1.3 this is where a refused client
    /// certificate shows.
    pub(super) fn unspoken(address: SocketAddr, error: &io::Error) -> Self {
        if tls_error(error).is_some() {
            return Self::tls(address, error);
        }
        Self::Http2 {
            address,
            reason: error.to_string(),
            retry: Retry::Never,
        }
    }
}

impl Target {
    fn refused_hint(self) -> &'static str {
        match self {
            Self::Application => "",
            Self::Hbone => {
                ": the mesh state says that this workload is enrolled, but nothing takes tunnels there; is its node's proxy running?"
            }
        }
    }

    fn timeout_hint(self, stage: Stage, address: &SocketAddr) -> String {
        match (self, stage) {
            (Self::Hbone, Stage::TcpConnect) => {
                format!(": maybe a NetworkPolicy blocks port {}", address.port())
            }
            _ => String::new(),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpConnect => "TCP connect",
            Self::TlsHandshake => "TLS handshake",
            Self::Http2Handshake => "HTTP/2 handshake",
            Self::ConnectResponse => "CONNECT",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Downstream => "client",
            Self::Upstream => "destination",
        })
    }
}

fn status_hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            ": the application refused the connection or could not be reached from its own proxy"
        }
        StatusCode::BAD_REQUEST => {
            ": the two nodes disagree about the workload's address; compare their mesh state"
        }
        _ => "",
    }
}
