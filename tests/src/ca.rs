//! A CA: `ztun ca` as a process on loopback, with a mesh of two nodes.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    task::{Context as TaskContext, Poll},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost_types::{Struct, Value as ProtoValue, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    codegen::Service,
    transport::{Endpoint, Uri},
};
use ztun::{
    cert::{KeyExchange, key::WorkloadKey},
    mesh::Identity,
    proto::ca::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

use crate::{
    daemon,
    mesh::Mesh,
    namespace::{Netns, in_thread},
    pod::Pod,
    rogue::Credentials,
};

/// Of node a, where `cart` runs, and of node b, where `stock` does.
pub const TOKENS: [&str; 2] = [
    "a-0123456789abcdef0123456789abcdef",
    "b-0123456789abcdef0123456789abcdef",
];
const START_TIMEOUT: Duration = Duration::from_secs(30);
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What CAs share: a mesh directory, a token file, and a place for their files. Gone when it is dropped.
pub struct CaPlace {
    directory: TempDir,
}

/// A running CA, killed when it is dropped.
pub struct Ca {
    process: Child,
    log: PathBuf,
    pub address: SocketAddr,
    pub readiness: SocketAddr,
    pub metrics: SocketAddr,
}

/// `spiffe://cluster.local/ns/shop/sa/ACCOUNT`.
///
/// # Panics
/// When `account` is no service account's name.
pub fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
        .parse()
        .unwrap_or_else(|error| panic!("{error}"))
}

impl CaPlace {
    pub fn new() -> Result<Self> {
        let place = Self {
            directory: TempDir::new()?,
        };
        fs::create_dir(place.path("mesh"))?;
        let pod = |account: &str, node: &str, address: &str| {
            format!(
                "---
apiVersion: v1
kind: Pod
metadata: {{name: {account}, namespace: shop}}
spec: {{nodeName: {node}, serviceAccountName: {account}}}
status: {{phase: Running, podIPs: [{{ip: {address}}}]}}
"
            )
        };
        let pods = pod("cart", "a", "10.0.0.1") + &pod("stock", "b", "10.0.0.2");
        fs::write(place.path("mesh/pods.yaml"), pods)?;
        let [a, b] = TOKENS;
        place.write_private("tokens", &format!("a {a}\nb {b}\n"))?;
        Ok(place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that only its owner may read.
    pub fn write_private(&self, name: &str, text: &str) -> Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        options
            .open(self.path(name))?
            .write_all(text.as_bytes())
            .with_context(|| format!("write {name}"))
    }

    /// The configuration file of the CA `name`, with `settings` beside the usual ones.
    pub fn configuration(&self, name: &str, settings: &[(&str, &str)]) -> Result<PathBuf> {
        let mut all = vec![
            ("listen", "127.0.0.1:0".to_owned()),
            ("readinessAddress", "127.0.0.1:0".to_owned()),
            ("metricsAddress", "127.0.0.1:0".to_owned()),
            ("serverNames", "localhost".to_owned()),
            ("stateDirectory", self.path(name).display().to_string()),
            ("meshDirectory", self.path("mesh").display().to_string()),
            ("authentication", "staticTokens".to_owned()),
            ("tokenFile", self.path("tokens").display().to_string()),
            ("logFormat", "json".to_owned()),
        ];
        for (key, value) in settings {
            all.retain(|(usual, _)| usual != key);
            all.push((key, (*value).to_owned()));
        }
        let lines = all
            .iter()
            .map(|(key, value)| format!("{key}: \"{value}\"\n"));
        let file = self.path(&format!("{name}.yaml"));
        fs::write(&file, lines.collect::<String>())?;
        Ok(file)
    }

    /// Starts the CA `name`.
    pub fn start(&self, name: &str, settings: &[(&str, &str)]) -> Result<Ca> {
        let file = self.configuration(name, settings)?;
        let mut command = Command::new(daemon::binary()?);
        command.args(["ca", "--config"]).arg(file);
        self.run(name, command)
    }

    /// As [`start`](Self::start), in `netns`.
    pub fn start_in(&self, netns: &Netns, name: &str, settings: &[(&str, &str)]) -> Result<Ca> {
        netns.run(|| self.start(name, settings))?
    }

    /// As [`start`](Self::start), where `mounted` is a tmpfs with `options` that only this CA sees.
    pub fn start_on_tmpfs(
        &self,
        name: &str,
        mounted: &Path,
        options: &str,
        settings: &[(&str, &str)],
    ) -> Result<Ca> {
        fs::create_dir_all(mounted)?;
        // The thread's processes begin in its namespace.
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let nothing = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing)?;
            let (flags, data) = match options {
                "ro" => (MsFlags::MS_RDONLY, None),
                size => (MsFlags::empty(), Some(size)),
            };
            mount(nothing, mounted, Some("tmpfs"), flags, data)
                .with_context(|| format!("mount {}", mounted.display()))?;
            self.start(name, settings)
        })
    }

    fn run(&self, name: &str, mut command: Command) -> Result<Ca> {
        let log = self.path(&format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let earlier = usize::try_from(output.metadata()?.len())?;
        // Its settings are in the file alone.
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"ZTUN_") {
                command.env_remove(variable);
            }
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("start the CA")?;
        let deadline = Instant::now() + START_TIMEOUT;
        let started = loop {
            let text = fs::read_to_string(&log)?;
            let mut lines = text[earlier..].lines().map(serde_json::from_str::<Value>);
            let is_started = |line: &Value| line["fields"]["message"] == "started";
            if let Some(line) = lines.find_map(|line| line.ok().filter(is_started)) {
                break line;
            }
            if let Some(status) = process.try_wait()? {
                bail!("the CA has ended at once: {status}\n{text}");
            }
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                bail!("the CA does not start\n{text}");
            }
            thread::sleep(Duration::from_millis(10));
        };
        let address = |field: &str| -> Result<SocketAddr> {
            let text = started["fields"][field].as_str();
            Ok(text.with_context(|| format!("no {field}"))?.parse()?)
        };
        Ok(Ca {
            address: address("listen")?,
            readiness: address("readiness")?,
            metrics: address("metrics")?,
            process,
            log,
        })
    }

    /// What a CA that must not start says.
    pub fn refusal(&self, name: &str, settings: &[(&str, &str)]) -> Result<String> {
        match self.start(name, settings) {
            Ok(_) => bail!("the CA has started"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }
}

impl Ca {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to the CA"))
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + EXIT_TIMEOUT;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the CA does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The status and body of an endpoint: `readiness` or `metrics`.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String)> {
        daemon::http_get(&Netns::own()?, address, path)
    }

    /// The value of a metric's sample, written as in the exposition format.
    pub fn metric(&self, sample: &str) -> Result<u64> {
        let (_, text) = self.get(self.metrics, "/metrics")?;
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = values
            .next()
            .with_context(|| format!("no {sample} in {text}"))?;
        Ok(value.parse()?)
    }

    /// Asks for `account`'s certificate as a node would: the elements of the chain.
    pub async fn ask(&self, root: &str, token: &str, account: &str) -> Result<Vec<String>, Status> {
        let identity = identity(account);
        let csr = WorkloadKey::generate(&identity).and_then(|key| key.request(&identity));
        let csr = csr.map_err(|error| internal(&error))?;
        let csr = csr.pem().map_err(|error| internal(&error))?;
        self.sign(root, token, &identity.to_string(), csr).await
    }

    /// Has a request for `identity` signed: the elements of the chain.
    pub async fn sign(
        &self,
        root: &str,
        token: &str,
        identity: &str,
        csr: String,
    ) -> Result<Vec<String>, Status> {
        let asked_for = ProtoValue {
            kind: Some(Kind::StringValue(identity.to_owned())),
        };
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: 3600,
            metadata: Some(Struct {
                fields: [("ImpersonatedIdentity".to_owned(), asked_for)].into(),
            }),
        });
        let authorization = format!("Bearer {token}").parse();
        request.metadata_mut().insert(
            "authorization",
            authorization.map_err(|error| internal(&error))?,
        );
        let tls = trusting(root).map_err(|error| internal(&error))?;
        let connector = Connector {
            address: self.address,
            tls: TlsConnector::from(Arc::new(tls)),
        };
        let channel = Endpoint::from_static("https://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Status::unavailable(format!("connect: {error:?}")))?;
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await?;
        Ok(answer.into_inner().cert_chain)
    }
}

/// A certificate of the pod's identity, by a `ztun ca` that has the mesh's root and believes the mesh
/// directory.
pub async fn credentials(mesh: &Mesh, pod: &Pod) -> Result<Credentials> {
    let place = CaPlace::new()?;
    let [token, _] = TOKENS;
    place.write_private("tokens", &format!("{} {token}\n", pod.spec.node))?;
    let text = |path: &Path| path.display().to_string();
    let (root, state) = (mesh.ca_directory(), text(mesh.directory.path()));
    let settings = [("caDirectory", &*text(&root)), ("meshDirectory", &*state)];
    let ca = place.start("ca", &settings)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut request = CertificateParams::default();
    request.distinguished_name = DistinguishedName::new();
    request.subject_alt_names = vec![SanType::URI(pod.identity().try_into()?)];
    let csr = request.serialize_request(&key)?.pem()?;
    let root = fs::read_to_string(root.join("root-cert.pem"))?;
    let chain = ca.sign(&root, token, &pod.identity(), csr).await?;
    let (_root, chain) = chain.split_last().context("an empty chain")?;
    Credentials::new(chain, key)
}

/// Of the test's own making, not the CA's.
fn internal(error: &dyn std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

impl Drop for Ca {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the CA's log:\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn trusting(root: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root.as_bytes()) {
        roots.add(root?)?;
    }
    let mut config = ClientConfig::builder_with_provider(KeyExchange::default().provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
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

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        })
    }
}

/// The roots that a CA with its own directory trusts.
pub fn roots_in(directory: &Path) -> Result<String> {
    let file = directory.join("root-cert.pem");
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}
