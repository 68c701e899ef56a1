//! A mesh of two machines, each of which runs its half of the same test: `cargo xtask vm` boots them as
//! guests whose network cards are joined.

use std::{
    cmp::Ordering,
    env,
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use ztun::{
    cert::{
        EmbeddedCa,
        embedded::{ROOT_CERTIFICATE, ROOT_KEY},
    },
    mesh::TrustDomain,
};

use crate::{
    mesh::{Mesh, MeshBuilder},
    scenario::{can_run_daemons, judge, run},
};

/// Names the node that this machine has. Set in guests alone: a mesh takes the machine's network card.
const NODE: &str = "ZTUN_TEST_NODE";
/// Where the node `a` waits for the other one's half of a test.
const MEETING_PORT: u16 = 7000;
/// The other machine may still boot, or clean up after the test before.
const MEETING_LIMIT: Duration = Duration::from_mins(1);
const DIAL_LIMIT: Duration = Duration::from_millis(500);
const DIAL_INTERVAL: Duration = Duration::from_millis(50);

/// The half of the same test that runs on the other machine. It learns of a failure here when this is dropped.
pub struct Other {
    stream: BufReader<TcpStream>,
}

/// Runs a test on the mesh of the nodes `a` and `b`, each on a machine of its own, with its own daemon and pods:
/// `on_a` on the one, `on_b` on the other. Each has its own pods as [`Mesh::pod`], and the other's as
/// [`Mesh::far_pod`].
///
/// # Panics
/// When either half fails.
#[track_caller]
pub fn two_machines<A, B>(mesh: MeshBuilder, on_a: A, on_b: B)
where
    A: AsyncFnOnce(&Mesh, &mut Other) -> Result<()>,
    B: AsyncFnOnce(&Mesh, &mut Other) -> Result<()>,
{
    let test = thread::current().name().unwrap_or_default().to_owned();
    let here = env::var(NODE).ok();
    let able = can_run_daemons().and_then(|()| match here {
        Some(_) => Ok(()),
        None => Err("needs two machines: `cargo xtask vm` boots them".into()),
    });
    let mut mesh = mesh.nodes(["a", "b"]);
    mesh.here = here;
    run(able, &test, async || {
        let mesh = mesh.build().await.context("build the network")?;
        let half = async {
            let mut other = Other::find(&mesh, &test).await?;
            share_root(&mesh, &mut other).await?;
            mesh.start().await.context("start the mesh")?;
            other.meet("the pods are enrolled").await?;
            if is_first(&mesh) {
                on_a(&mesh, &mut other).await?;
            } else {
                on_b(&mesh, &mut other).await?;
            }
            other.meet("the test has passed").await
        };
        judge(half.await, mesh);
        Ok(())
    });
}

impl Other {
    /// Waits until both halves have come to the same point.
    pub async fn meet(&mut self, point: &str) -> Result<()> {
        self.tell(&point).await?;
        let theirs: String = self.hear().await?;
        ensure!(
            theirs == point,
            "here {point}, on the other machine {theirs}"
        );
        Ok(())
    }

    async fn tell(&mut self, value: &impl Serialize) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(value)?);
        let written = self.stream.write_all(line.as_bytes()).await;
        written.context("tell the other machine")
    }

    async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let heard = self.stream.read_line(&mut line).await;
        ensure!(
            heard.is_ok_and(|length| length > 0),
            "the other machine's half of the test has failed"
        );
        serde_json::from_str(&line).context("understand the other machine")
    }

    /// Connects to the half of the same test.
    async fn find(mesh: &Mesh, test: &str) -> Result<Self> {
        timeout(MEETING_LIMIT, async {
            let listener = is_first(mesh).then(|| listen(mesh)).transpose()?;
            loop {
                let stream = match &listener {
                    Some(listener) => listener.accept().await?.0,
                    None => dial(mesh).await?,
                };
                // Nothing may linger in the node's namespace: the card leaves it with the last socket.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                let stream = BufReader::new(stream);
                let mut other = Self { stream };
                let Ok(theirs) = other.exchange(test).await else {
                    // It has just given up a test.
                    continue;
                };
                // Tests run in the order of their names.
                match theirs.as_str().cmp(test) {
                    Ordering::Equal => return Ok(other),
                    Ordering::Greater => bail!("the other machine is at {theirs} already"),
                    Ordering::Less => {}
                }
            }
        })
        .await
        .context("the other machine does not come to this test")?
    }

    async fn exchange(&mut self, test: &str) -> Result<String> {
        self.tell(&test).await?;
        self.hear().await
    }
}

fn is_first(mesh: &Mesh) -> bool {
    mesh.nodes().iter().any(|node| node.name == "a")
}

fn listen(mesh: &Mesh) -> Result<TcpListener> {
    let socket = socket_of_node(mesh)?;
    socket.set_reuseaddr(true)?;
    socket.bind(meeting_point(mesh, "a")?)?;
    socket.listen(1).context("wait for the other machine")
}

async fn dial(mesh: &Mesh) -> Result<TcpStream> {
    let to = meeting_point(mesh, "a")?;
    loop {
        let attempt = timeout(DIAL_LIMIT, socket_of_node(mesh)?.connect(to));
        if let Ok(Ok(stream)) = attempt.await {
            return Ok(stream);
        }
        sleep(DIAL_INTERVAL).await;
    }
}

/// A TCP socket of the node itself.
fn socket_of_node(mesh: &Mesh) -> Result<TcpSocket> {
    let node = mesh.nodes().first().context("a mesh without a node")?;
    let socket = node
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
    socket.set_nonblocking(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn meeting_point(mesh: &Mesh, node: &str) -> Result<SocketAddr> {
    let addresses = mesh.addresses_of(node);
    let address = addresses.first().context("a node without an address")?;
    Ok(SocketAddr::new(*address, MEETING_PORT))
}

/// Gives both machines the certificate authority that the first one makes.
async fn share_root(mesh: &Mesh, other: &mut Other) -> Result<()> {
    let directory = mesh.ca_directory();
    let files = [ROOT_KEY, ROOT_CERTIFICATE].map(|name| directory.join(name));
    if is_first(mesh) {
        let trust_domain: TrustDomain = "cluster.local".parse()?;
        EmbeddedCa::open(&directory, trust_domain).context("make a root")?;
        for file in files {
            let content = fs::read_to_string(&file);
            let content = content.with_context(|| format!("read {}", file.display()))?;
            other.tell(&content).await?;
        }
    } else {
        fs::create_dir_all(&directory)?;
        for file in files {
            let content: String = other.hear().await?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)
                .and_then(|mut file| file.write_all(content.as_bytes()))
                .with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}
