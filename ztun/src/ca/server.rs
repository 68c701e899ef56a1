//! Accepts nodes' connections: TLS, HTTP/2, and bounds on all that a stranger can hold.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::codegen::Service as _;

use super::{
    metrics::CaMetrics,
    service::{CertificateService, Peer},
};
use crate::{
    cert::{describe_tls_error, require_h2},
    observe::rate_limit::RateLimit,
    proto::ca::istio_certificate_service_server::IstioCertificateServiceServer,
};

const CONNECTIONS: usize = 4096;
/// Several nodes may be behind one address.
const CONNECTIONS_OF_AN_ADDRESS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Then the client connects anew: it may find another replica, and an idle one holds nothing for good.
const LONGEST_CONNECTION: Duration = Duration::from_mins(30);
const REQUESTS_OF_A_CONNECTION: u32 = 100;
/// A signing request is under a kilobyte, a token a few.
const LARGEST_REQUEST: usize = 64 * 1024;
const LARGEST_HEAD: u32 = 32 * 1024;
const PING_AFTER: Duration = Duration::from_secs(30);

pub struct CaServer {
    service: IstioCertificateServiceServer<CertificateService>,
    metrics: CaMetrics,
    tls: TlsAcceptor,
    connected: Arc<Connected>,
    stop: CancellationToken,
    refusals: RateLimit,
}

impl CaServer {
    pub fn new(service: CertificateService, tls: rustls::ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            metrics: service.metrics.clone(),
            service: IstioCertificateServiceServer::new(service)
                .max_decoding_message_size(LARGEST_REQUEST),
            tls: TlsAcceptor::from(Arc::new(tls)),
            connected: Arc::default(),
            stop: CancellationToken::new(),
            refusals: RateLimit::default(),
        })
    }

    /// Serves until [`Self::stop`], and then until what is open has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let open = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => match self.connected.admit(peer.ip()) {
                    Some(place) => {
                        let server = Arc::clone(&self);
                        open.spawn(async move {
                            server.connection(stream, peer).await;
                            drop(place);
                        });
                    }
                    None => self.refused(peer, "too-many", "too many connections are open"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        open.close();
        open.wait().await;
    }

    /// Ends connections once their open requests are answered.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        let handshake = async {
            let stream = self.tls.accept(stream).await?;
            require_h2(stream.get_ref().1)?;
            Ok(stream)
        };
        let stream = match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refused(peer, "tls", &describe_tls_error(&error)),
            Err(_) => return self.refused(peer, "tls-timeout", "its TLS handshake takes too long"),
        };
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            let mut service = self.service.clone();
            async move {
                Ok::<_, Infallible>(
                    service
                        .call(request)
                        .await
                        .unwrap_or_else(|never| match never {}),
                )
            }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_AFTER)
            .max_concurrent_streams(REQUESTS_OF_A_CONNECTION)
            .max_header_list_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep(LONGEST_CONNECTION) => {}
                }
            } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended early");
        }
    }

    fn refused(&self, peer: SocketAddr, reason: &'static str, text: &str) {
        self.metrics.connection_refused(reason);
        if let Some(suppressed) = self.refusals.admit(Instant::now()) {
            tracing::warn!(%peer, suppressed, reason = text, "connection refused");
        }
    }
}

/// How many connections each address has open.
#[derive(Debug, Default)]
struct Connected(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place, free again when it is dropped.
#[derive(Debug)]
struct Place {
    connected: Arc<Connected>,
    address: IpAddr,
}

impl Connected {
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let own = open.entry(address).or_default();
        if total >= CONNECTIONS || *own >= CONNECTIONS_OF_AN_ADDRESS {
            return None;
        }
        *own += 1;
        Some(Place {
            connected: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self
            .connected
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.address);
            }
        }
    }
}
