//! The walk `wordpress`: a web server's pod uses a real `MariaDB` in `wordpress-app`, first with no policy, then
//! under STRICT, while the kubelet probes both over HTTP and TCP all the time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use ztun_tests::{
    Enrolment, Family, Mesh, MtlsMode, Node, PodSpec, Process, ServiceSpec, scenario,
    servers::{MARIADB_PORT, NGINX_PORT, Server, client},
    wait,
};

const NAMESPACE: &str = "wordpress-app";
const WORDPRESS: &str = "wordpress-app/wordpress";
const DATABASE: &str = "wordpress-app/wordpress-mysql";

/// Exit codes of `ztun tls-check`.
const CONFLICT: i32 = 3;
const PLAINTEXT: i32 = 4;

#[test]
fn wordpress() {
    let legacy = PodSpec::new("legacy/client")
        .on("a")
        .enrolment(Enrolment::Outside);
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new(WORDPRESS).on("a"))
        .pod(PodSpec::new(DATABASE).on("b"))
        .pod(legacy)
        .service(ServiceSpec::new(DATABASE).port(MARIADB_PORT, MARIADB_PORT))
        .needs("nginx")
        .needs("mariadbd")
        .needs("mariadb")
        .needs("curl");
    scenario(mesh, async |mesh| {
        let (wordpress, database) = (mesh.pod(WORDPRESS), mesh.pod(DATABASE));
        let files = [("healthz", &b"alive"[..])];
        let _nginx = Server::nginx(mesh, wordpress, &files).await?;
        let _mariadb = Server::mariadb(mesh, database, MARIADB_PORT).await?;
        let http = Probes::start(
            mesh.node("a"),
            wordpress.at(Family::V4, NGINX_PORT),
            "/healthz",
        );
        let tcp = Probes::start(mesh.node("b"), database.at(Family::V4, MARIADB_PORT), "");
        let (http, tcp) = (http.await?, tcp.await?);

        query(mesh, WORDPRESS).await?;
        query(mesh, "legacy/client").await.context("no policy")?;
        assert_eq!(tls_check(mesh, "legacy/client").await?, Some(PLAINTEXT));

        mesh.set_mtls(NAMESPACE, MtlsMode::Strict)?;
        wait::until("plaintext is refused", async || {
            query(mesh, "legacy/client").await.is_err()
        })
        .await?;
        assert_eq!(tls_check(mesh, "legacy/client").await?, Some(CONFLICT));
        assert_eq!(tls_check(mesh, WORDPRESS).await?, Some(0));
        let (http_before, tcp_before) = (http.passed(), tcp.passed());
        query(mesh, WORDPRESS).await?;
        wait::until("probes go on under STRICT", async || {
            http.passed() > http_before + 5 && tcp.passed() > tcp_before + 5
        })
        .await?;
        query(mesh, WORDPRESS).await?;
        assert_eq!((http.failed(), tcp.failed()), (0, 0), "probes failed");
        Ok(())
    });
}

async fn query(mesh: &Mesh, pod: &str) -> Result<()> {
    let to = match pod {
        // Without a mesh there is no service here, only the pod.
        "legacy/client" => mesh.pod(DATABASE).at(Family::V4, MARIADB_PORT),
        _ => mesh.service(DATABASE).at(Family::V4, MARIADB_PORT),
    };
    let host = format!("--host={}", to.ip());
    let arguments = [
        "--no-defaults",
        "--protocol=tcp",
        "--skip-ssl",
        "--connect-timeout=20",
        &host,
        "--execute=SELECT 1",
    ];
    client(mesh.pod(pod), "mariadb", &arguments).await.map(drop)
}

/// How the database's daemon answers for a client: its exit code.
async fn tls_check(mesh: &Mesh, pod: &str) -> Result<Option<i32>> {
    let source = mesh.pod(pod).v4.to_string();
    let destination = format!("pod/{DATABASE}:{MARIADB_PORT}");
    let arguments = ["tls-check", &source, &destination];
    let output = mesh.node("b").ztun(&arguments).await?;
    Ok(output.status.code())
}

/// A liveness probe that the kubelet repeats, until this is dropped.
struct Probes {
    counts: Arc<[AtomicU64; 2]>,
    probing: JoinHandle<()>,
}

impl Probes {
    /// Of the HTTP `path`, or of the TCP port alone if there is none.
    async fn start(node: &Node, to: SocketAddr, path: &'static str) -> Result<Self> {
        let kubelet = node.process("kubelet")?;
        wait::until("the daemon knows the kubelet", async || {
            node.log().contains("probes pass")
        })
        .await?;
        let counts = Arc::<[AtomicU64; 2]>::default();
        let counted = Arc::clone(&counts);
        let probing = tokio::spawn(async move {
            loop {
                let failed = usize::from(probe(&kubelet, to, path).await.is_err());
                counted[failed].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Self { counts, probing })
    }

    fn passed(&self) -> u64 {
        self.counts[0].load(Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        self.counts[1].load(Ordering::Relaxed)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.probing.abort();
    }
}

async fn probe(kubelet: &Process, to: SocketAddr, path: &str) -> Result<()> {
    let mut stream = kubelet.connect(to).await?;
    if path.is_empty() {
        // A server-first protocol: its greeting is the sign of life.
        stream.read_u8().await?;
        return Ok(());
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}
