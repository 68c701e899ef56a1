//! The client's end: one connection to a peer's proxy, and tunnels in it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use http::{Request, StatusCode};
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::net::TcpSocket;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    CLIENT_MAX_HEADER_LIST, CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_FRAME, STREAM_WINDOW,
    keepalive::{self, Pulse},
    transport::{FirstRead, OpenStreams, Spoken, StreamGuard, Transport},
};
use crate::{
    cert::{
        Negotiated, WorkloadCertificate, require_h2,
        trust::{Peer, Purpose},
    },
    mesh::Identity,
    proxy::{
        error::{ProxyError, Retry, Stage, Target, TlsFault},
        settings::Timeouts,
        socket,
    },
};

/// How long before its certificate's end a connection takes no new tunnels.
const EXPIRY_MARGIN: Duration = Duration::from_mins(1);

/// A connection that takes tunnels. It is closed when the last clone and the last tunnel are gone.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: client::SendRequest<Bytes>,
    streams: OpenStreams,
    pulse: Pulse,
    address: SocketAddr,
    /// The certificate that it was opened with, less a margin.
    pub expires: OffsetDateTime,
    /// That certificate's.
    pub serial: Arc<str>,
    /// Who answered.
    pub peer: Arc<Peer>,
}

/// One established tunnel.
#[derive(Debug)]
pub struct Tunnel {
    pub send: SendStream<Bytes>,
    pub recv: RecvStream,
    /// Held until the relay is over.
    pub guard: StreamGuard,
}

/// The part of a connection that reads and writes; resolves when the connection is over.
pub type Driver = std::pin::Pin<Box<dyn Future<Output = String> + Send>>;

/// Connects to the proxy at `address`, which must be `expected`. Each stage has its own limit.
pub async fn connect(
    tcp: io::Result<TcpSocket>,
    address: SocketAddr,
    certificate: &WorkloadCertificate,
    expected: &Identity,
    timeouts: &Timeouts,
) -> Result<(Connection, Driver), ProxyError> {
    let tcp = socket::connect(tcp, Target::Hbone, address, timeouts.tcp_connect).await?;
    let streams = OpenStreams::default();
    let transport = Transport::new(tcp, streams.clone());

    let handshake = tls(transport, address, certificate, expected);
    let limit = timeouts.tls_handshake;
    let tls = within(limit, Stage::TlsHandshake, address, handshake).await?;
    let peer = certificate.trust().peer(tls.get_ref().1, Purpose::Server);
    let peer = peer.map_err(|error| ProxyError::Tls {
        address,
        reason: error.to_string(),
        fault: TlsFault::Identity,
    })?;

    let limit = timeouts.http2_handshake;
    let pulse = Pulse::default();
    let handshake = http2(tls, address, pulse.clone());
    let (requests, driver) = within(limit, Stage::Http2Handshake, address, handshake).await?;
    let connection = Connection {
        requests,
        streams,
        pulse,
        address,
        expires: certificate.not_after - EXPIRY_MARGIN,
        serial: certificate.serial.as_str().into(),
        peer,
    };
    Ok((connection, driver))
}

impl Connection {
    /// How many tunnels the peer allows at once.
    pub fn peer_limit(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Opens one tunnel: 200 and nothing else lets bytes through.
    pub async fn open(&self, request: Request<()>, limit: Duration) -> Result<Tunnel, ProxyError> {
        let guard = self.streams.open();
        let address = self.address;
        let unsent = |error: h2::Error| tunnel_lost(address, error.to_string(), Retry::Unprocessed);
        let response = async {
            let mut requests = self.requests.clone().ready().await.map_err(unsent)?;
            let (response, send) = requests.send_request(request, false).map_err(unsent)?;
            let response = response.await.map_err(|error| lost(address, &error))?;
            Ok((response, send))
        };
        let (response, send) = tokio::select! {
            answered = within(limit, Stage::ConnectResponse, address, response) => answered?,
            reason = self.pulse.lost() => {
                return Err(tunnel_lost(address, reason, Retry::Unanswered));
            }
        };
        match response.status() {
            StatusCode::OK => Ok(Tunnel {
                send,
                recv: response.into_body(),
                guard,
            }),
            // Envoy's own filters deny with the second.
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(ProxyError::DeniedByPeer { address, status })
            }
            status => Err(ProxyError::RefusedByPeer { address, status }),
        }
    }
}

async fn tls(
    transport: Transport,
    address: SocketAddr,
    certificate: &WorkloadCertificate,
    expected: &Identity,
) -> Result<TlsStream<Transport>, ProxyError> {
    let connector = TlsConnector::from(certificate.client(expected));
    // SNI is off and names are ignored: identities are checked instead.
    let name = ServerName::IpAddress(address.ip().into());
    let failed = |error: io::Error| ProxyError::tls(address, &error);
    let tls = connector.connect(name, transport).await.map_err(failed)?;
    require_h2(tls.get_ref().1).map_err(failed)?;
    let agreed = Negotiated::of(tls.get_ref().1);
    tracing::debug!(server = %address, identity = %expected, %agreed, "outbound TLS handshake done");
    Ok(tls)
}

/// Done when the peer has spoken: a peer that finished TLS and then hangs must not be pooled, and
/// with TLS 1.3 it may refuse our certificate as late as now.
async fn http2(
    tls: TlsStream<Transport>,
    address: SocketAddr,
    pulse: Pulse,
) -> Result<(client::SendRequest<Bytes>, Driver), ProxyError> {
    let (stream, mut spoken) = FirstRead::new(tls);
    let (requests, mut connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(CLIENT_MAX_HEADER_LIST)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| unspoken(address, &mut spoken, Err(error)))?;
    let ping_pong = connection.ping_pong();
    tokio::select! {
        biased;
        first = &mut spoken => if let Ok(Err(error)) = first {
            return Err(ProxyError::unspoken(address, &error));
        },
        ended = &mut connection => return Err(unspoken(address, &mut spoken, ended)),
    }
    let driver = Box::pin(async move {
        tokio::select! {
            ended = connection => match ended {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            },
            reason = keepalive::silence(ping_pong, &pulse) => reason,
        }
    });
    Ok((requests, driver))
}

/// Why a connection ended before the peer spoke.
fn unspoken(address: SocketAddr, spoken: &mut Spoken, ended: Result<(), h2::Error>) -> ProxyError {
    let (reason, retry) = match (spoken.try_recv(), ended) {
        (Ok(Err(error)), _) => return ProxyError::unspoken(address, &error),
        (_, Err(error)) => (error.to_string(), Retry::Never),
        // So does one that is ending; its successor may speak.
        (_, Ok(())) => (
            "the peer closed the connection without speaking HTTP/2".into(),
            Retry::Unanswered,
        ),
    };
    ProxyError::Http2 {
        address,
        reason,
        retry,
    }
}

async fn within<T>(
    limit: Duration,
    stage: Stage,
    address: SocketAddr,
    work: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ProxyError::Timeout {
            target: Target::Hbone,
            stage,
            address,
            waited: limit,
        }),
    }
}

/// A CONNECT without an answer.
fn lost(address: SocketAddr, error: &h2::Error) -> ProxyError {
    let reason = error.reason();
    let unprocessed = reason == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && reason == Some(Reason::NO_ERROR));
    let retry = if unprocessed {
        Retry::Unprocessed
    } else if error.is_io() || error.is_go_away() {
        Retry::Unanswered
    } else {
        Retry::Never
    };
    tunnel_lost(address, error.to_string(), retry)
}

fn tunnel_lost(address: SocketAddr, reason: String, retry: Retry) -> ProxyError {
    ProxyError::TunnelLost {
        address,
        reason,
        retry,
    }
}
