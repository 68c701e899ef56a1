//! The server's end: who connects is proven by mutual TLS, what it wants is a CONNECT to this pod.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol, server};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_FRAME, SERVER_MAX_HEADER_LIST, SERVER_MAX_STREAMS,
    STREAM_WINDOW,
    baggage::Baggage,
    client::Tunnel,
    forwarded::Forwarded,
    headers::HboneTarget,
    keepalive::{self, Pulse},
    transport::{OpenStreams, StreamGuard, Transport},
};
use crate::{
    cert::{
        Negotiated, WorkloadCertificate, describe_tls_error, require_h2, tls,
        trust::{Peer, Purpose},
    },
    mesh::{Service, ServiceKey},
    observe::{ClaimedWorkload, Party, Security, metrics::Refusal},
    proxy::{
        Proxy,
        error::{ProxyError, Side},
        inbound::{self, Entry},
        listen::Accepted,
        registry::LocalPod,
        relay::{Meter, relay_tunnel},
    },
};

/// How long a drain waits for the first request of a connection.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

type Connection = server::Connection<TlsStream<Transport>, Bytes>;

/// Who is at the other end of a connection whose handshakes are done.
#[derive(Clone, Debug)]
struct Client {
    proven: Arc<Peer>,
    /// What it was shown.
    shown: Arc<WorkloadCertificate>,
    address: SocketAddr,
    /// The pod's address that it dialled.
    dialled: SocketAddr,
}

/// Why a connection never got as far as a request.
#[derive(Debug)]
struct Refused {
    reason: Refusal,
    detail: String,
}

pub async fn serve(proxy: &Arc<Proxy>, pod: &Arc<LocalPod>, accepted: Accepted) {
    let client = accepted.client;
    let place = pod.handshakes.begin();
    let shaken = tokio::select! {
        shaken = handshake(proxy, pod, accepted) => shaken,
        () = place.evicted() => Err(Refused::new(
            Refusal::TooManyHandshakes,
            format!(
                "more than {} handshakes at once, and it was the oldest",
                proxy.settings.pending_handshakes
            ),
        )),
        () = pod.gone.cancelled() => return,
    };
    drop(place);
    match shaken {
        Ok((connection, peer, streams)) => drive(proxy, pod, connection, &peer, &streams).await,
        Err(Refused { reason, detail }) => proxy.refused(pod, client, reason, &detail),
    }
}

async fn handshake(
    proxy: &Proxy,
    pod: &LocalPod,
    accepted: Accepted,
) -> Result<(Connection, Client, OpenStreams), Refused> {
    let no_certificate =
        |error: ProxyError| Refused::new(Refusal::NoCertificate, error.to_string());
    let (_, workload) = proxy.workload_of(pod).await.map_err(no_certificate)?;
    let certificate = proxy.certificates.certificate(&workload.identity).await;
    let certificate = certificate.map_err(|e| no_certificate(ProxyError::Certificate(e)))?;

    let streams = OpenStreams::default();
    let transport = Transport::new(accepted.stream, streams.clone());
    let limits = &proxy.settings.timeouts;
    let late = |_| {
        Refused::new(
            Refusal::HandshakeTimeout,
            "the handshake took too long".into(),
        )
    };

    let tls_failed = |error| {
        let revoked = tls::is_revoked(&error);
        let reason = if revoked {
            Refusal::CertificateRevoked
        } else {
            Refusal::Tls
        };
        Refused::new(reason, describe_tls_error(&error))
    };
    let accepting = TlsAcceptor::from(Arc::clone(&certificate.server)).accept(transport);
    let tls = tokio::time::timeout(limits.tls_handshake, accepting).await;
    let tls = tls.map_err(late)?.map_err(tls_failed)?;
    require_h2(tls.get_ref().1).map_err(tls_failed)?;
    let trust = proxy.certificates.trust();
    let proven = trust
        .peer(tls.get_ref().1, Purpose::Client)
        .map_err(|error| Refused::new(Refusal::Tls, error.to_string()))?;
    let agreed = Negotiated::of(tls.get_ref().1);
    tracing::debug!(client = %accepted.client, identity = %proven.identity, %agreed, "inbound TLS handshake done");

    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(SERVER_MAX_HEADER_LIST)
        .max_concurrent_streams(SERVER_MAX_STREAMS)
        .data_frame_budget(DATA_FRAME_BUDGET);
    let http2 = tokio::time::timeout(limits.http2_handshake, builder.handshake(tls)).await;
    let connection = http2
        .map_err(late)?
        .map_err(|error| Refused::new(Refusal::Http2, error.to_string()))?;
    let peer = Client {
        proven,
        shown: certificate,
        address: accepted.client,
        dialled: accepted.dialled,
    };
    Ok((connection, peer, streams))
}

/// Takes requests until the connection ends. Its streams run on their own.
async fn drive(
    proxy: &Arc<Proxy>,
    pod: &Arc<LocalPod>,
    mut connection: Connection,
    peer: &Client,
    streams: &OpenStreams,
) {
    let pulse = Pulse::default();
    let trust = proxy.certificates.trust();
    let mut changes = trust.changes();
    let mut issued = proxy.certificates.changes();
    // What changed during the handshake is asked about, too.
    changes.mark_changed();
    issued.mark_changed();
    let silence = keepalive::silence(connection.ping_pong(), &pulse);
    tokio::pin!(silence);
    let mut going_away = false;
    // A client that has just shaken hands has a request under way.
    let mut is_used = false;
    loop {
        tokio::select! {
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => {
                    is_used = true;
                    let stream = Stream {
                        proxy: Arc::clone(proxy),
                        pod: Arc::clone(pod),
                        peer: peer.clone(),
                        guard: streams.open(),
                    };
                    proxy.tasks.spawn(stream.serve(request, respond));
                }
                Some(Err(error)) => {
                    tracing::debug!(client = %peer.address, %error, "inbound tunnel connection broke");
                    return;
                }
                None => return,
            },
            () = time_to_go(proxy, is_used), if !going_away => {
                going_away = true;
                connection.graceful_shutdown();
            }
            () = pod.gone.cancelled() => return,
            Ok(()) = changes.changed(), if !going_away => {
                if let Err(error) = trust.judge(&peer.proven) {
                    // Its tunnels are ended one by one, each with the reason; new ones are refused.
                    tracing::debug!(client = %peer.address, %error, "inbound tunnel connection ends");
                    going_away = true;
                    connection.graceful_shutdown();
                }
            }
            Ok(()) = issued.changed(), if !going_away => {
                // New tunnels are to be proven by what is newest: the root of this one may go.
                let WorkloadCertificate { identity, serial, .. } = &*peer.shown;
                if !proxy.certificates.is_newest(identity, serial) {
                    going_away = true;
                    connection.graceful_shutdown();
                }
            }
            reason = &mut silence => {
                tracing::debug!(client = %peer.address, %reason, "inbound tunnel connection dead");
                return;
            }
        }
    }
}

async fn time_to_go(proxy: &Proxy, is_used: bool) {
    proxy.draining.cancelled().await;
    if !is_used {
        tokio::time::sleep(FIRST_REQUEST).await;
    }
}

/// One CONNECT.
struct Stream {
    proxy: Arc<Proxy>,
    pod: Arc<LocalPod>,
    peer: Client,
    guard: StreamGuard,
}

impl Stream {
    async fn serve(self, request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
        let target = match self.target(&request) {
            Ok(target) => target,
            Err((status, detail)) => {
                let reason = match status {
                    StatusCode::METHOD_NOT_ALLOWED => Refusal::NotConnect,
                    _ => Refusal::BadRequest,
                };
                let client = self.peer.address;
                let detail = format!("tunnel of {}: {detail}", self.peer.proven.identity);
                self.proxy.refused(&self.pod, client, reason, &detail);
                answer(&mut respond, status);
                return;
            }
        };
        let Self {
            proxy,
            pod,
            peer,
            guard,
        } = self;
        let Some(_place) = proxy.place(&pod, peer.address) else {
            answer(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
            return;
        };
        let forwarded = Forwarded::of(request.headers());
        let entry = Entry {
            source: source(&proxy, &peer, request.headers(), forwarded.as_ref()),
            address: target,
            security: Security::MutualTls,
            hbone_address: Some(peer.dialled),
            service: meant_service(&proxy, &pod, forwarded.as_ref()),
            peer: Some(Arc::clone(&peer.proven)),
        };
        let (connection, admitted) = inbound::admit(&proxy, &pod, entry).await;
        let outcome = match admitted {
            Ok(application) => match respond.send_response(status(StatusCode::OK), false) {
                Ok(send) => {
                    let recv = request.into_body();
                    let tunnel = Tunnel { send, recv, guard };
                    let meter = Meter::new([Arc::clone(&connection)]);
                    relay_tunnel(application, Side::Upstream, tunnel, &meter).await
                }
                Err(error) => Err(ProxyError::Reset {
                    side: Side::Downstream,
                    reason: error.to_string(),
                }),
            },
            Err(error) => {
                answer(&mut respond, refusal_status(&error));
                Err(error)
            }
        };
        proxy.connections.finish(&connection, &outcome);
    }

    /// The inner target: an address of this very pod, and not one of the proxy's own ports.
    fn target(&self, request: &Request<RecvStream>) -> Result<SocketAddr, (StatusCode, String)> {
        if request.method() != Method::CONNECT {
            let detail = format!("{} instead of CONNECT", request.method());
            return Err((StatusCode::METHOD_NOT_ALLOWED, detail));
        }
        let bad = |detail: String| Err((StatusCode::BAD_REQUEST, detail));
        if let Some(protocol) = request.extensions().get::<Protocol>() {
            return bad(format!("extended CONNECT to {:?}", protocol.as_str()));
        }
        let HboneTarget(target) = match HboneTarget::of(request.uri()) {
            Ok(target) => target,
            Err(error) => return bad(error.to_string()),
        };
        if target.ip() != self.peer.dialled.ip() {
            return bad(format!("{target} is not at {}", self.peer.dialled.ip()));
        }
        let port = target.port();
        if self.proxy.settings.transport.is_reserved(port) {
            return bad(format!("port {port} is the proxy's own"));
        }
        Ok(target)
    }
}

/// The workload at the client's address is named only if it has the identity that was proven. Where
/// there is none, telemetry takes the client's word.
fn source(
    proxy: &Proxy,
    peer: &Client,
    headers: &HeaderMap,
    forwarded: Option<&Forwarded>,
) -> Party {
    let snapshot = proxy.mesh.snapshot();
    let domains = proxy.certificates.trust().domains();
    let (address, proven) = (peer.address.ip(), &peer.proven.identity);
    let at_address = snapshot.workload_by_address(address);
    let workload = at_address.filter(|workload| domains.same(&workload.identity, proven));
    let claimed = || {
        let claim = ClaimedWorkload::new(proven, Baggage::of(headers)?)?;
        proxy.connections.claimed(claim)
    };
    Party {
        address: peer.address,
        workload: workload.cloned(),
        claimed: workload.is_none().then(claimed).flatten(),
        identity: Some(proven.clone()),
        forwarded_for: forwarded
            .and_then(|forwarded| forwarded.source)
            .filter(|source| *source != address.to_canonical()),
    }
}

/// The service that the client says it meant, if this pod is behind it.
fn meant_service(
    proxy: &Proxy,
    pod: &LocalPod,
    forwarded: Option<&Forwarded>,
) -> Option<Arc<Service>> {
    let host = forwarded?.host.as_deref()?;
    let (name, rest) = host.split_once('.')?;
    let (namespace, _) = rest.split_once('.')?;
    let snapshot = proxy.mesh.snapshot();
    let service = snapshot.service(&ServiceKey::new(namespace, name))?;
    let workload = snapshot.workload_by_pod(&pod.pod.name)?;
    let is_behind = service.endpoints.get(&workload.uid).is_some();
    (is_behind && *service.hostname == *host).then(|| Arc::clone(service))
}

fn refusal_status(error: &ProxyError) -> StatusCode {
    match error {
        ProxyError::Denied(_) | ProxyError::Distrusted(_) => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn answer(respond: &mut server::SendResponse<Bytes>, code: StatusCode) {
    // It fails only if the client has gone, and then nobody waits for an answer.
    let _ = respond.send_response(status(code), true);
}

fn status(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}

impl Refused {
    fn new(reason: Refusal, detail: String) -> Self {
        Self { reason, detail }
    }
}
