//! A fake CA: the real API over real TLS on loopback, with conduct that no CA should have.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::{BoxFuture, FutureExt};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateSigningRequestDer, pem::PemObject},
    sign::SingleCertAndKey,
    version::TLS13,
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::{DAY, TestRoot, dns, identity};
use crate::{
    cert::{GrpcCa, GrpcCaSettings, KeyExchange},
    proto::ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{
            IstioCertificateService, IstioCertificateServiceServer,
        },
    },
};

#[derive(Clone, Debug)]
pub(super) enum Conduct {
    Signs,
    Says(Status),
    Answers(Vec<String>),
    NeverAnswers,
    /// Takes the request and closes the connection.
    ClosesMidAnswer,
    /// Instead of HTTP/2, within TLS.
    SpeaksGarbage,
    /// Instead of TLS.
    SpeaksNoTls,
    NeverShakesHands,
}

#[derive(Debug)]
pub(super) struct FakeCa {
    files: TempDir,
    port: u16,
    desk: Arc<Desk>,
    server: AbortHandle,
}

/// What all connections share.
#[derive(Debug)]
struct Desk {
    issuer: TestRoot,
    conduct: Mutex<Conduct>,
    /// What TLS clients are shown; its issuer is not the issuer of certificates.
    tls: Mutex<Arc<ServerConfig>>,
    requests: Mutex<Vec<Request<IstioCertificateRequest>>>,
    connections: AtomicUsize,
}

impl FakeCa {
    /// One whose own certificate is for `localhost`, with the files by which a node asks it.
    pub(super) async fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let root = TestRoot::new();
        let desk = Arc::new(Desk {
            issuer: TestRoot::new(),
            conduct: Mutex::new(conduct),
            tls: Mutex::new(server_config(&root, "localhost")),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&desk))).abort_handle();
        let ca = Self {
            files: TempDir::new().unwrap(),
            port,
            desk,
            server,
        };
        fs::write(ca.root_file(), &root.pem).unwrap();
        fs::write(ca.token_file(), "first-token\n").unwrap();
        ca
    }

    pub(super) fn client(&self) -> GrpcCa {
        GrpcCa::new(GrpcCaSettings {
            address: format!("https://localhost:{}", self.port).parse().unwrap(),
            root_file: self.root_file(),
            token_file: self.token_file(),
            cluster_id: "Kubernetes".into(),
        })
        .unwrap()
    }

    pub(super) fn root_file(&self) -> PathBuf {
        self.files.path().join("root-cert.pem")
    }

    pub(super) fn token_file(&self) -> PathBuf {
        self.files.path().join("token")
    }

    pub(super) fn becomes(&self, conduct: Conduct) {
        *self.desk.conduct.lock().unwrap() = conduct;
    }

    /// From the next connection on it shows a certificate for `name`, signed by `root`.
    pub(super) fn shows(&self, root: &TestRoot, name: &str) {
        *self.desk.tls.lock().unwrap() = server_config(root, name);
    }

    /// Nobody listens any more; open connections stay.
    pub(super) fn stop(&self) {
        self.server.abort();
    }

    pub(super) fn connections(&self) -> usize {
        self.desk.connections.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> usize {
        self.desk.requests.lock().unwrap().len()
    }

    /// The last request's `authorization`, `clusterid` and message.
    pub(super) fn last_request(&self) -> (String, String, IstioCertificateRequest) {
        let requests = self.desk.requests.lock().unwrap();
        let last = requests.last().unwrap();
        let metadata = |name| {
            last.metadata()
                .get(name)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        (
            metadata("authorization"),
            metadata("clusterid"),
            last.get_ref().clone(),
        )
    }
}

impl Drop for FakeCa {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Desk {
    fn conduct(&self) -> Conduct {
        self.conduct.lock().unwrap().clone()
    }

    fn sign(&self, request: &IstioCertificateRequest) -> Vec<String> {
        let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes()).unwrap();
        let issuer = self.issuer.root();
        let issued = issuer.sign(&identity("a"), &csr, DAY, OffsetDateTime::now_utc());
        let pem = issued.unwrap().pem;
        let (leaf, root) = pem.split_at(pem.rfind("-----BEGIN").unwrap());
        vec![leaf.to_owned(), root.to_owned()]
    }
}

#[derive(Clone, Debug)]
struct Service {
    desk: Arc<Desk>,
    /// Ends the connection.
    end: Arc<tokio::sync::Notify>,
}

// The shape that tonic's generated trait has.
impl IstioCertificateService for Service {
    fn create_certificate<'a, 'b>(
        &'a self,
        request: Request<IstioCertificateRequest>,
    ) -> BoxFuture<'b, Result<Response<IstioCertificateResponse>, Status>>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let signed = self.desk.sign(request.get_ref());
            self.desk.requests.lock().unwrap().push(request);
            let cert_chain = match self.desk.conduct() {
                Conduct::Says(status) => return Err(status),
                Conduct::NeverAnswers => std::future::pending().await,
                Conduct::ClosesMidAnswer => {
                    self.end.notify_one();
                    std::future::pending().await
                }
                Conduct::Answers(chain) => chain,
                _ => signed,
            };
            Ok(Response::new(IstioCertificateResponse { cert_chain }))
        }
        .boxed()
    }
}

fn server_config(root: &TestRoot, name: &str) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(KeyExchange::default().provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            root.odd(vec![dns(name)], |_| {}),
        )));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        desk.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(converse(tcp, Arc::clone(&desk)));
    }
}

async fn converse(mut tcp: TcpStream, desk: Arc<Desk>) {
    match desk.conduct() {
        Conduct::NeverShakesHands => std::future::pending().await,
        Conduct::SpeaksNoTls => {
            drop(tcp.write_all(b"220 mail.example ESMTP\r\n").await);
            drop(tcp.read_to_end(&mut Vec::new()).await);
            return;
        }
        _ => {}
    }
    let tls = Arc::clone(&desk.tls.lock().unwrap());
    let Ok(mut stream) = TlsAcceptor::from(tls).accept(tcp).await else {
        return;
    };
    if let Conduct::SpeaksGarbage = desk.conduct() {
        drop(stream.write_all(&[0xAA; 4096]).await);
        drop(stream.read_to_end(&mut Vec::new()).await);
        return;
    }
    let end = Arc::new(tokio::sync::Notify::new());
    let service = IstioCertificateServiceServer::new(Service {
        desk: Arc::clone(&desk),
        end: Arc::clone(&end),
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::select! {
        _ = connection => {}
        () = end.notified() => {}
    }
}
