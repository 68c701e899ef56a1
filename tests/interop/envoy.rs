//! Envoy at the other end of a tunnel, as Istio's gateways and waypoints are.

mod client;
mod server;
mod traffic;
mod trust;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::Result;
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, app,
    envoy::{self, Envoy, HboneClient, HboneServer, Upstream},
    pod::Pod,
    servers::NGINX_PORT,
    wait,
};

const PORT: u16 = 8080;
const FAILED: &str = "istio_tcp_connections_failed_total";

/// A pod of ztun's, and one on another node with an Envoy: the mesh state says that it takes tunnels,
/// and nothing is captured there.
fn pod_and_envoy() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/pod").on("b"))
        .pod(
            PodSpec::new("shop/envoy")
                .on("a")
                .enrolment(Enrolment::Claimed),
        )
        .needs(envoy::PROGRAM)
}

/// Which end of the tunnel is Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// From one pod to the other, through a tunnel that has an Envoy at one end.
struct Way<'a> {
    client: &'a Pod,
    server: &'a Pod,
    family: Family,
    envoy: Envoy,
}

impl End {
    const BOTH: [Self; 2] = [Self::Client, Self::Server];

    async fn open(self, mesh: &Mesh, family: Family) -> Result<Way<'_>> {
        let (pod, envoy) = (mesh.pod("shop/pod"), mesh.pod("shop/envoy"));
        match self {
            Self::Client => Ok(Way {
                client: envoy,
                server: pod,
                family,
                envoy: client_of(pod, family).start(mesh, envoy).await?,
            }),
            Self::Server => Ok(Way {
                client: pod,
                server: envoy,
                family,
                envoy: HboneServer::from(&pod.identity(), Upstream::Direct)
                    .start(mesh, envoy)
                    .await?,
            }),
        }
    }
}

impl Way<'_> {
    /// Whether bytes come back from an echo server.
    async fn reaches(&self) -> bool {
        reaches(self.client, self.to(PORT)).await
    }

    /// How many connections Envoy has had to the other end.
    async fn connections(&self) -> Result<u64> {
        let counters = [
            "cluster.tunnels.upstream_cx_total",
            "http.hbone.downstream_cx_total",
        ];
        let mut total = 0;
        for counter in counters {
            total += self.envoy.counted(counter).await?;
        }
        Ok(total)
    }

    /// Where the client reaches `port` of the server.
    fn to(&self, port: u16) -> SocketAddr {
        // Only an Envoy at the client's end is there to be dialled.
        if self.server.is_enrolled() {
            forwarded(port)
        } else {
            self.server.at(self.family, port)
        }
    }
}

/// Forwards what tests need of `pod`, from [`forwarded`].
fn client_of(pod: &Pod, family: Family) -> HboneClient {
    let ports = [PORT, NGINX_PORT].into_iter();
    ports.fold(HboneClient::towards(&pod.identity()), |client, port| {
        client.forward(forwarded(port).port(), pod.at(family, port))
    })
}

async fn reaches(client: &Pod, to: SocketAddr) -> bool {
    let Ok(mut stream) = client.connect(to).await else {
        return false;
    };
    app::exchange(&mut stream, "hello").await.is_ok()
}

/// Asserts that a connection from ztun's pod to Envoy's is reset, the log says why, and the metric has `flag`.
async fn is_refused(mesh: &Mesh, reason: &str, flag: &str) -> Result<()> {
    let (pod, node) = (mesh.pod("shop/pod"), mesh.node("b"));
    let to = mesh.pod("shop/envoy").at(Family::V4, PORT);
    assert_eq!(pod.failure(to).await, Some(ErrorKind::ConnectionReset));
    wait::until(format_args!("the log says: {reason}"), async || {
        node.log().lines().any(|line| line.contains(reason))
    })
    .await?;
    let labels = [("reporter", "source"), ("response_flags", flag)];
    wait::until(format_args!("{flag} is counted"), async || {
        node.counted(FAILED, &labels)
            .is_ok_and(|counted| counted == 1)
    })
    .await
}

/// Where Envoy takes what it forwards to `port`, beside servers that have the port itself.
const fn forwarded(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_000 + port)
}
