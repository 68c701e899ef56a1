//! One request to the API server, with the CA's own service account.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    cert::{KeyExchange, describe_tls_error},
    config::TokenReviewSettings,
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A review is a few hundred bytes.
const LARGEST_ANSWER: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct ApiServer {
    host: String,
    port: u16,
    token_file: PathBuf,
    root_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ApiServerError {
    #[error("the API server {0} has not answered within {TIMEOUT:?}")]
    Timeout(String),
    #[error("can't read {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} has no certificate that can be a root: {reason}")]
    Root { path: PathBuf, reason: String },
    #[error("can't reach the API server {server}: {reason}")]
    Connect { server: String, reason: String },
    #[error("the API server {server}: {reason}")]
    Http { server: String, reason: String },
    #[error(
        "the API server answers {0}: may the CA's service account create tokenreviews.authentication.k8s.io?"
    )]
    Status(StatusCode),
}

impl ApiServer {
    pub(super) fn new(settings: &TokenReviewSettings) -> Self {
        let host = settings.api_server.host().unwrap_or_default();
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: settings.api_server.port_u16().unwrap_or(443),
            token_file: settings.token_file.clone(),
            root_file: settings.root_file.clone(),
        }
    }

    /// Both files are read each time: the kubelet replaces them.
    pub(super) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Bytes, ApiServerError> {
        timeout(TIMEOUT, self.send(path, body))
            .await
            .unwrap_or_else(|_| Err(ApiServerError::Timeout(self.server())))
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<Bytes, ApiServerError> {
        let token = self.read(&self.token_file).await?;
        let tls = self.tls().await?;
        let connect = |reason: String| ApiServerError::Connect {
            server: self.server(),
            reason,
        };
        let name =
            ServerName::try_from(self.host.clone()).map_err(|error| connect(error.to_string()))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| connect(error.to_string()))?;
        let stream = TlsConnector::from(tls)
            .connect(name, stream)
            .await
            .map_err(|error| connect(describe_tls_error(&error)))?;
        let failed = |reason: String| ApiServerError::Http {
            server: self.server(),
            reason,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.server())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(ApiServerError::Status(status));
        }
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
            .collect()
            .await;
        connection.abort();
        Ok(body.map_err(|error| failed(error.to_string()))?.to_bytes())
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, ApiServerError> {
        let unusable = |reason: String| ApiServerError::Root {
            path: self.root_file.clone(),
            reason,
        };
        let pem = self.read(&self.root_file).await?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let root = root.map_err(|error| unusable(error.to_string()))?;
            roots
                .add(root)
                .map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("it is empty".into()));
        }
        let config = ClientConfig::builder_with_provider(KeyExchange::default().provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    async fn read(&self, path: &PathBuf) -> Result<String, ApiServerError> {
        tokio::fs::read_to_string(path)
            .await
            .map_err(|source| ApiServerError::File {
                path: path.clone(),
                source,
            })
    }

    fn server(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }
}
