//! One HTTP/2 connection to the CA, over TLS that only its own root vouches for.

use std::{
    io,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
    version::TLS13,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{body::Body, client::GrpcService};

use super::{CaAddress, error::chain};
use crate::cert::{CaError, KeyExchange, tls};

/// For name resolution, TCP, TLS and HTTP/2 together; what is left of a request's time is for its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection takes no more requests after this time, so that replicas of the CA share the
/// load, and is closed after twice that.
const REUSED_FOR: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(5);

/// Carries one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    requests: SendRequest<Body>,
    /// The PEM file's content that the CA's certificate was verified by.
    root: Arc<[u8]>,
    opened: Instant,
}

/// Who is connected to, and what its certificate is verified by.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub address: &'a CaAddress,
    pub root_file: &'a Path,
    pub root: Arc<[u8]>,
    /// What messages call it.
    pub ca: String,
}

impl Connection {
    pub(super) fn is_usable(&self, root: &[u8]) -> bool {
        !self.requests.is_closed() && *self.root == *root && self.opened.elapsed() < REUSED_FOR
    }
}

impl GrpcService<Body> for &mut Connection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<http::Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.requests.send_request(request).boxed()
    }
}

impl Target<'_> {
    pub(super) async fn connect(self) -> Result<Connection, CaError> {
        let connecting = timeout(CONNECT_TIMEOUT, self.try_connect());
        connecting.await.unwrap_or_else(|_| {
            Err(self.unavailable(format!("no connection within {CONNECT_TIMEOUT:?}")))
        })
    }

    async fn try_connect(&self) -> Result<Connection, CaError> {
        let config = self.tls_config()?;
        let tcp = TcpStream::connect(self.address.host_and_port())
            .await
            .map_err(|error| self.unavailable(error.to_string()))?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(self.address.server_name(), tcp)
            .await
            .map_err(|error| self.handshake_failed(&error))?;
        tls::require_h2(tls.get_ref().1)
            .map_err(|_| self.unavailable("it does not speak HTTP/2, as gRPC does".into()))?;
        Ok(Connection {
            requests: self.http2(tls).await?,
            root: Arc::clone(&self.root),
            opened: Instant::now(),
        })
    }

    fn tls_config(&self) -> Result<ClientConfig, CaError> {
        let bad_root = |reason: &dyn std::fmt::Display| CaError::NotConfigured {
            ca: self.ca.clone(),
            reason: format!(
                "{} (ca.rootFile) can't be used: {reason}",
                self.root_file.display()
            ),
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.root) {
            let certificate = certificate.map_err(|error| bad_root(&error))?;
            roots.add(certificate).map_err(|error| bad_root(&error))?;
        }
        if roots.is_empty() {
            return Err(bad_root(&"it holds no certificate in PEM"));
        }
        let mut config = ClientConfig::builder_with_provider(KeyExchange::default().provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.unavailable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        Ok(config)
    }

    async fn http2(&self, tls: TlsStream<TcpStream>) -> Result<SendRequest<Body>, CaError> {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|error| self.unavailable(chain(&error)))?;
        // It ends when its last user does. What ends it early fails the request, which tells.
        tokio::spawn(timeout(2 * REUSED_FOR, connection));
        Ok(requests)
    }

    fn handshake_failed(&self, error: &io::Error) -> CaError {
        let Some(tls) = tls::tls_error(error) else {
            return self.unavailable(tls::describe_tls_error(error));
        };
        match tls {
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => self.untrusted("no root in that file signed its certificate".into()),
            Error::InvalidCertificate(_) => self.untrusted(tls.to_string()),
            _ => self.unavailable(tls::describe_tls_error(error)),
        }
    }

    fn untrusted(&self, reason: String) -> CaError {
        CaError::Untrusted {
            ca: self.ca.clone(),
            root_file: self.root_file.to_owned(),
            reason,
        }
    }

    fn unavailable(&self, reason: String) -> CaError {
        CaError::Unavailable {
            ca: self.ca.clone(),
            reason,
        }
    }
}
