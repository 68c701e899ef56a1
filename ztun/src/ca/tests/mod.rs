//! The CA over a real socket, asked with tonic's client.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod files;
mod refusals;
mod tls;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use prost_types::{Struct, Value, value::Kind};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    codegen::Service,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    authentication::StaticTokens,
    issue_log::IssueLog,
    metrics::CaMetrics,
    placement::Placements,
    rate_limit::NodeRates,
    server::CaServer,
    service::{CertificateService, Refusals},
    serving::ServingCertificate,
};
use crate::{
    cert::{
        KeyExchange,
        clock::{Clock as _, SystemClock},
        key::WorkloadKey,
        signer::Signer,
    },
    config::{RateLimits, SignerSource},
    mesh::{Identity, Mesh, Snapshot, fixture},
    proto::ca::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

const TOKEN_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TOKEN_B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
/// Of a node that the mesh state doesn't have.
const TOKEN_ELSEWHERE: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const LONGEST: Duration = Duration::from_hours(24);

/// A CA with the workloads `cart` on node a and `stock` on node b.
struct Rig {
    directory: TempDir,
    mesh: Arc<Mesh>,
    signer: Arc<Signer>,
    serving: Arc<ServingCertificate>,
    server: Arc<CaServer>,
    served: JoinHandle<()>,
    address: SocketAddr,
    registry: Registry,
}

impl Rig {
    async fn start() -> Self {
        let rig = Self::with_burst(1000).await;
        rig.place(&[("cart", "a"), ("stock", "b")]);
        rig
    }

    /// With a mesh that is not read yet.
    async fn with_burst(burst: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let tokens = directory.path().join("tokens");
        write_private(
            &tokens,
            &format!("a {TOKEN_A}\nb {TOKEN_B}\nelsewhere {TOKEN_ELSEWHERE}\n"),
        );
        let trust_domain = cart().trust_domain().clone();
        let source = SignerSource::Directory {
            ca_directory: directory.path().join("ca"),
        };
        let signer = Arc::new(Signer::open(&source, trust_domain.clone()).unwrap());
        let names = [ServerName::try_from("localhost").unwrap()];
        let serving =
            ServingCertificate::new(&names, &signer.current(), SystemClock.now()).unwrap();
        let mut registry = Registry::default();
        let mesh = Mesh::empty();
        let service = CertificateService {
            authenticator: Arc::new(StaticTokens::open(&tokens).unwrap()),
            rates: NodeRates::new(RateLimits {
                per_second: 1.try_into().unwrap(),
                burst: burst.try_into().unwrap(),
            }),
            placements: Placements::new(mesh.clone()),
            trust_domain,
            signer: signer.clone(),
            max_lifetime: LONGEST,
            issue_log: Arc::new(IssueLog::open(&directory.path().join("log/issued")).unwrap()),
            metrics: CaMetrics::new(&mut registry),
            clock: Arc::new(SystemClock),
            refusals: Refusals::default(),
        };
        let server = CaServer::new(service, serving.clone().tls().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(server.clone().serve(listener));
        Self {
            directory,
            mesh,
            signer,
            serving,
            server,
            served,
            address,
            registry,
        }
    }

    /// Publishes a mesh of service accounts, each with a pod on a node.
    fn place(&self, workloads: &[(&str, &str)]) {
        let mut snapshot = Snapshot::default();
        for (account, node) in workloads {
            let mut workload = fixture::workload(account, &[]);
            workload.identity = identity(account);
            workload.node = (*node).into();
            snapshot.insert_workload(Arc::new(workload));
        }
        self.mesh.publish(snapshot);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issued(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("log/issued")).unwrap_or_default();
        let line = |line| serde_json::from_str(line).unwrap();
        text.lines().map(line).collect()
    }

    /// The value of a sample, written as in the exposition format.
    fn metric(&self, sample: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {text}"))
            .parse()
            .unwrap()
    }

    async fn client(&self) -> IstioCertificateServiceClient<Channel> {
        let connector = Connector {
            address: self.address,
            tls: TlsConnector::from(Arc::new(self.trusting_client())),
        };
        let endpoint = Endpoint::from_static("https://localhost");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        IstioCertificateServiceClient::new(channel)
    }

    /// Asks as a node would.
    async fn ask(&self, token: &str, ask: &Ask) -> Result<Vec<String>, Status> {
        let mut request = Request::new(ask.request());
        let authorization = format!("Bearer {token}").parse().unwrap();
        request
            .metadata_mut()
            .insert("authorization", authorization);
        let answer = self.client().await.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    fn trusting_client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = self.signer.current();
        roots
            .add(CertificateDer::from_pem_slice(root.bundle().as_bytes()).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(KeyExchange::default().provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// A request in good order, but for what a test makes of it.
#[derive(Clone, Debug)]
struct Ask {
    csr: String,
    seconds: i64,
    identity: Option<Kind>,
}

impl Ask {
    fn of(identity: &Identity) -> Self {
        let key = WorkloadKey::generate(identity).unwrap();
        Self {
            csr: key.request(identity).unwrap().pem().unwrap(),
            seconds: 3600,
            identity: Some(Kind::StringValue(identity.to_string())),
        }
    }

    fn request(&self) -> IstioCertificateRequest {
        let field = |kind: &Kind| {
            let value = Value {
                kind: Some(kind.clone()),
            };
            ("ImpersonatedIdentity".to_owned(), value)
        };
        IstioCertificateRequest {
            csr: self.csr.clone(),
            validity_duration: self.seconds,
            metadata: Some(Struct {
                fields: self.identity.iter().map(field).collect(),
            }),
        }
    }
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local".parse().unwrap(), "shop", account).unwrap()
}

fn cart() -> Identity {
    identity("cart")
}

fn write_private(path: &Path, text: &str) {
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            tls.connect(name, stream).await.map(TokioIo::new)
        })
    }
}
