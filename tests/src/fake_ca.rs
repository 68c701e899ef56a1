//! A fake CA: `istio.v1.auth` over TLS on a node's loopback. It signs for whoever asks; what is tested
//! is the daemon that asks.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use futures_util::future::{BoxFuture, FutureExt};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateSigningRequestDer, pem::PemObject},
    version::TLS13,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use ztun::{
    cert::EmbeddedCa,
    proto::ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{
            IstioCertificateService, IstioCertificateServiceServer,
        },
    },
};

use crate::{
    mesh::MeshBuilder,
    node::Node,
    rogue::{Claims, Credentials},
};

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15012);
pub const URL: &str = "https://localhost:15012";

/// A CA that is down until it is started on a node.
pub struct FakeCa {
    files: TempDir,
    authority: Arc<EmbeddedCa>,
}

/// A CA that runs on a node, until it is dropped.
pub struct RunningCa {
    _server: JoinSet<()>,
}

impl FakeCa {
    pub fn new() -> Result<Self> {
        let files = TempDir::new()?;
        let authority = EmbeddedCa::open(files.path(), "cluster.local".parse()?)?;
        fs::write(files.path().join("token"), "token-of-a-node")?;
        Ok(Self {
            files,
            authority: Arc::new(authority),
        })
    }

    /// Every daemon of the mesh asks the CA on its own node.
    pub fn of_daemons(&self, mesh: MeshBuilder) -> MeshBuilder {
        mesh.setting("ca.address", json!(URL))
            .setting("ca.rootFile", json!(self.root_file()))
            .setting("ca.tokenFile", json!(self.files.path().join("token")))
    }

    pub fn start(&self, node: &Node) -> Result<RunningCa> {
        let listener = node.netns.run(|| std::net::TcpListener::bind(ADDRESS))??;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener).context("start the fake CA")?;
        let tls = TlsAcceptor::from(Arc::new(self.tls()?));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, tls, Authority(self.authority.clone())));
        Ok(RunningCa { _server: server })
    }

    fn root_file(&self) -> PathBuf {
        self.files.path().join("root-cert.pem")
    }

    fn tls(&self) -> Result<ServerConfig> {
        let credentials = Credentials::issue(self.files.path(), &Claims::dns("localhost")?)?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&TLS13])?
                .with_no_client_auth()
                .with_single_cert(credentials.chain().to_vec(), credentials.key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Connections end with the server.
async fn serve(listener: TcpListener, tls: TlsAcceptor, authority: Authority) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), authority.clone());
        connections.spawn(async move {
            let service = TowerToHyperService::new(IstioCertificateServiceServer::new(service));
            if let Ok(stream) = tls.accept(tcp).await {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                // A daemon that is killed ends it with an error.
                drop(connection.await);
            }
        });
    }
}

#[derive(Clone, Debug)]
struct Authority(Arc<EmbeddedCa>);

impl Authority {
    fn sign(&self, request: &IstioCertificateRequest) -> Result<Vec<String>> {
        let fields = request.metadata.as_ref().map(|metadata| &metadata.fields);
        let identity = fields.and_then(|fields| fields.get("ImpersonatedIdentity"));
        let kind = identity.and_then(|identity| identity.kind.as_ref());
        let Some(prost_types::value::Kind::StringValue(identity)) = kind else {
            return Err(anyhow!("no ImpersonatedIdentity"));
        };
        let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
            .map_err(|error| anyhow!("{error}"))?;
        let lifetime = Duration::from_secs(request.validity_duration.try_into()?);
        let chain = self.0.sign(&identity.parse()?, &csr, lifetime)?.pem;
        let root = chain.rfind("-----BEGIN").context("no root")?;
        Ok([&chain[..root], &chain[root..]].map(str::to_owned).into())
    }
}

// The shape that tonic's generated trait has.
impl IstioCertificateService for Authority {
    fn create_certificate<'a, 'b>(
        &'a self,
        request: Request<IstioCertificateRequest>,
    ) -> BoxFuture<'b, Result<Response<IstioCertificateResponse>, Status>>
    where
        'a: 'b,
        Self: 'b,
    {
        let chain = self.sign(request.get_ref());
        let answer = chain
            .map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
            .map_err(|error| Status::invalid_argument(format!("{error:#}")));
        async { answer }.boxed()
    }
}
