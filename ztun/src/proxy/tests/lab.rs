//! A client's node, a server's node, and the mesh that both see.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::{
    cert::{
        CertificateManager, CertificateSettings, EmbeddedCa, WorkloadCertificate,
        clock::SystemClock,
    },
    mesh::{
        Denial, Endpoint, Identity, Mesh, PodName, Policies, Service, ServiceKey, Snapshot,
        Workload, WorkloadUid,
        policy::{FailClosed, Policy, PolicyKey, PolicyKind, Selector, Target},
        transport::TransportSettings,
        workload::{Health, Locality, Membership, NetworkMode, TunnelProtocol, WorkloadKind},
    },
    observe::Metrics,
    proxy::{
        PodAddresses, PodListeners, PodSockets, ProxiedPod, Proxy, ProxySettings, Timeouts,
        hbone::client::{self, Connection},
    },
};

pub const HBONE_PORT: u16 = 25008;

const APPLICATION_PORT: u16 = 8080;
const SERVICE_PORT: u16 = 20080;

/// After which a test that waits has failed.
const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU8 = AtomicU8::new(1);

pub struct Lab {
    pub client: Node,
    pub server: Node,
    pub mesh: Arc<Mesh>,
    pub addresses: Addresses,
    _ca: tempfile::TempDir,
}

pub struct Node {
    pub proxy: Arc<Proxy>,
    pub certificates: Arc<CertificateManager>,
    pub sockets: Arc<LoopbackSockets>,
    pub pod: PodName,
    identity: Identity,
    registry: Registry,
}

/// Each lab has its own, so that tests run side by side.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub client: IpAddr,
    pub server: IpAddr,
    pub vip: SocketAddr,
    pub application: SocketAddr,
    pub hbone: SocketAddr,
}

/// Sockets of a pod without a network namespace, which count the connections that leave it.
#[derive(Debug)]
pub struct LoopbackSockets {
    address: IpAddr,
    pub upstream: AtomicUsize,
}

impl Lab {
    /// Call it in a runtime: a client's pod, a service, and the server's pod behind it, each pod on its own node.
    pub fn new() -> Self {
        let lab = Self::without_server();
        lab.server
            .proxy
            .add_pod(
                lab.server.proxied(lab.addresses.server),
                PodListeners {
                    inbound_hbone: vec![listener(lab.addresses.hbone)],
                    ..PodListeners::default()
                },
            )
            .unwrap();
        lab
    }

    /// As the mesh state has it, but nobody serves the server's HBONE port.
    pub fn without_server() -> Self {
        let addresses = Addresses::next();
        let ca = tempfile::tempdir().unwrap();
        let mesh = Mesh::empty();
        mesh.publish(snapshot(&addresses, Policies::default()));
        let client = Node::new(&mesh, ca.path(), "client", addresses.client);
        let server = Node::new(&mesh, ca.path(), "server", addresses.server);
        server.certificates.retain(&server.identity);
        client.certificates.retain(&client.identity);
        client
            .proxy
            .add_pod(
                client.proxied(addresses.client),
                PodListeners {
                    outbound: vec![listener(addresses.vip)],
                    ..PodListeners::default()
                },
            )
            .unwrap();
        Self {
            client,
            server,
            mesh,
            addresses,
            _ca: ca,
        }
    }

    /// A connection as the client's application opens it.
    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.addresses.vip).await.unwrap()
    }

    /// The server's application.
    pub fn application(&self) -> TcpListener {
        TcpListener::from_std(listener(self.addresses.application)).unwrap()
    }

    /// An application that sends back what it gets.
    pub fn echo(&self) {
        let application = self.application();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = application.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.shutdown().await;
                });
            }
        });
    }

    /// From now on policy denies everything into the server's namespace.
    pub fn deny_server(&self) {
        let denial = Denial {
            policy: "AuthorizationPolicy lab/deny".into(),
            reason: "the test says so".into(),
            hint: "nothing".into(),
        };
        let target = Target {
            namespace: Some("lab".into()),
            selector: Selector::default(),
        };
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, "lab", "deny");
        let mut policies = Policies::default();
        policies.insert(key, Policy::FailClosed(FailClosed { target, denial }));
        self.mesh.publish(snapshot(&self.addresses, policies));
    }

    /// The client's pod is as one of another cluster: its identity is good, and nothing else is known.
    pub fn forget_client(&self) {
        let mut snapshot = (*self.mesh.snapshot()).clone();
        snapshot.remove_workload(&WorkloadUid("client".into()));
        self.mesh.publish(snapshot);
    }

    /// A bare HBONE client with the client pod's certificate.
    pub async fn tunnels(&self) -> Connection {
        let certificate = self.client.certificate().await;
        let socket = self
            .client
            .sockets
            .upstream(self.addresses.hbone.ip(), self.addresses.hbone);
        let expected = &self.server.identity;
        let timeouts = Timeouts::default();
        let (connection, driver) = client::connect(
            socket,
            self.addresses.hbone,
            &certificate,
            expected,
            &timeouts,
        )
        .await
        .unwrap();
        tokio::spawn(driver);
        connection
    }
}

impl Node {
    fn new(mesh: &Arc<Mesh>, ca: &std::path::Path, name: &str, address: IpAddr) -> Self {
        let trust_domain: crate::mesh::TrustDomain = "cluster.local".parse().unwrap();
        let authority = EmbeddedCa::open(ca, trust_domain.clone()).unwrap();
        let certificates = Arc::new(CertificateManager::new(
            Arc::new(authority),
            CertificateSettings::new(trust_domain),
            Arc::new(SystemClock),
        ));
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let stage = Duration::from_millis(500);
        let settings = ProxySettings {
            transport: TransportSettings {
                hbone_port: HBONE_PORT,
                ..TransportSettings::default()
            },
            timeouts: Timeouts {
                tls_handshake: stage,
                http2_handshake: stage,
                connect_response: stage,
                ..Timeouts::default()
            },
            ..ProxySettings::default()
        };
        Self {
            proxy: Proxy::new(
                Arc::clone(mesh),
                Arc::clone(&certificates),
                settings,
                metrics,
            ),
            certificates,
            sockets: Arc::new(LoopbackSockets {
                address,
                upstream: AtomicUsize::new(0),
            }),
            pod: PodName::new("lab", name),
            identity: identity(name),
            registry,
        }
    }

    pub async fn certificate(&self) -> Arc<WorkloadCertificate> {
        self.certificates.certificate(&self.identity).await.unwrap()
    }

    /// How many connections have left this node's pod.
    pub fn dialled(&self) -> usize {
        self.sockets.upstream.load(Ordering::Relaxed)
    }

    /// Whether a connection failed with this `response_flags` label.
    pub fn failed_with(&self, flag: &str) -> bool {
        self.counted(
            "istio_tcp_connections_failed_total",
            &[("response_flags", flag)],
        )
    }

    /// Whether a metric has a series with all of these labels.
    pub fn counted(&self, metric: &str, labels: &[(&str, &str)]) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""));
        let labels: Vec<_> = labels.collect();
        let mut series = text.lines().filter(|line| line.starts_with(metric));
        series.any(|line| labels.iter().all(|label| line.contains(label)))
    }

    fn proxied(&self, address: IpAddr) -> ProxiedPod {
        ProxiedPod {
            name: self.pod.clone(),
            addresses: PodAddresses::new(vec![address]),
            sockets: self.sockets.clone(),
        }
    }
}

impl Addresses {
    fn next() -> Self {
        let lab = NEXT.fetch_add(1, Ordering::Relaxed);
        let ip = |host| IpAddr::from(Ipv4Addr::new(127, 77, lab, host));
        Self {
            client: ip(1),
            server: ip(2),
            vip: SocketAddr::new(ip(3), SERVICE_PORT),
            application: SocketAddr::new(ip(2), APPLICATION_PORT),
            hbone: SocketAddr::new(ip(2), HBONE_PORT),
        }
    }
}

impl PodSockets for LoopbackSockets {
    fn upstream(&self, _source: IpAddr, _destination: SocketAddr) -> io::Result<TcpSocket> {
        self.upstream.fetch_add(1, Ordering::Relaxed);
        bound(self.address)
    }

    fn last_hop(&self, client: IpAddr) -> io::Result<TcpSocket> {
        bound(client)
    }
}

/// Reads until the end and says how it ended.
pub async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let ended = reading.await.expect("it neither ended nor was reset");
    ended.map(|_| bytes).map_err(|error| error.kind())
}

/// Sends a message and waits for its echo.
pub async fn round_trip(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
}

pub fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

/// Waits until something that another task does has been done.
pub async fn eventually(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("it did not happen");
}

fn bound(address: IpAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address, 0))?;
    Ok(socket)
}

pub fn listener(address: SocketAddr) -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

fn identity(name: &str) -> Identity {
    Identity::new("cluster.local".parse().unwrap(), "lab", name).unwrap()
}

fn workload(name: &str, address: IpAddr) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(name.into()),
        pod: PodName::new("lab", name),
        pod_uid: "".into(),
        membership: Membership::Member,
        identity: identity(name),
        addresses: vec![address],
        node: name.into(),
        tunnel_protocol: TunnelProtocol::Hbone,
        health: Health::Healthy,
        network_mode: NetworkMode::Pod,
        locality: Locality::default(),
        labels: BTreeMap::new(),
        workload_name: name.into(),
        workload_kind: WorkloadKind::Pod,
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        cluster_id: "Kubernetes".into(),
        created: None,
    })
}

fn snapshot(addresses: &Addresses, policies: Policies) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.insert_workload(workload("client", addresses.client));
    snapshot.insert_workload(workload("server", addresses.server));
    let endpoint = Endpoint {
        ports: BTreeMap::from([(addresses.vip.port(), addresses.application.port())]).into(),
        ready: true,
    };
    snapshot.insert_service(Arc::new(Service {
        key: ServiceKey::new("lab", "server"),
        hostname: "server.lab.svc.cluster.local".into(),
        vips: vec![addresses.vip.ip()],
        ports: vec![addresses.vip.port()],
        endpoints: [(WorkloadUid("server".into()), endpoint)]
            .into_iter()
            .collect(),
    }));
    snapshot.set_policies(policies);
    snapshot
}
