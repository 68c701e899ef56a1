//! The client's end: one connection to a peer's proxy, and tunnels in it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use http::{Request, StatusCode};
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::{net::TcpSocket, sync::oneshot};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    CLIENT_MAX_HEADER_LIST, CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_FRAME, STREAM_WINDOW,
    keepalive,
    transport::{FirstRead, OpenStreams, Seen, StreamGuard, Transport},
};
use crate::{
    cert::{
        WorkloadCertificate, require_h2,
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
    let (requests, driver) =
        within(limit, Stage::Http2Handshake, address, http2(tls, address)).await?;
    let connection = Connection {
        requests,
        streams,
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
        let response = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, send) = requests.send_request(request, false)?;
            Ok((response.await?, send))
        };
        let (response, send) = within(limit, Stage::ConnectResponse, address, async {
            response.await.map_err(|error| lost(address, &error))
        })
        .await?;
        match response.status() {
            StatusCode::OK => Ok(Tunnel {
                send,
                recv: response.into_body(),
                guard,
            }),
            StatusCode::UNAUTHORIZED => Err(ProxyError::DeniedByPeer { address }),
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
    Ok(tls)
}

/// Done when the peer has spoken: a peer that finished TLS and then hangs must not be pooled, and
/// with TLS 1.3 it may refuse our certificate as late as now.
async fn http2(
    tls: TlsStream<Transport>,
    address: SocketAddr,
) -> Result<(client::SendRequest<Bytes>, Driver), ProxyError> {
    let (stream, mut spoken) = FirstRead::new(tls);
    let handshake = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(CLIENT_MAX_HEADER_LIST)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await;
    let (requests, mut connection) =
        handshake.map_err(|error| refused(address, &error, &mut spoken))?;
    let ping_pong = connection.ping_pong();
    tokio::select! {
        ended = &mut connection => {
            ended.map_err(|error| refused(address, &error, &mut spoken))?;
            return Err(ProxyError::Http2 {
                address,
                reason: "the peer closed the connection without speaking HTTP/2".into(),
            });
        }
        first = &mut spoken => {
            if let Ok(Err(error)) = first {
                return Err(alert(address, error));
            }
        }
    }
    let driver = Box::pin(async move {
        tokio::select! {
            ended = connection => match ended {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            },
            reason = keepalive::silence(ping_pong) => reason,
        }
    });
    Ok((requests, driver))
}

/// An HTTP/2 error before the peer spoke HTTP/2, or the TLS error that is behind it.
fn refused(
    address: SocketAddr,
    error: &h2::Error,
    spoken: &mut oneshot::Receiver<Seen>,
) -> ProxyError {
    match spoken.try_recv() {
        Ok(Err(error)) => alert(address, error),
        _ => ProxyError::http2(address, error),
    }
}

fn alert(address: SocketAddr, error: rustls::Error) -> ProxyError {
    ProxyError::tls(address, &io::Error::new(io::ErrorKind::InvalidData, error))
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

/// A CONNECT without an answer: worth another connection if it was this one that died.
fn lost(address: SocketAddr, error: &h2::Error) -> ProxyError {
    let connection_died =
        error.is_io() || error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    ProxyError::TunnelLost {
        address,
        reason: error.to_string(),
        retry: if connection_died {
            Retry::Fresh
        } else {
            Retry::Never
        },
    }
}
