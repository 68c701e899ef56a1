//! A pod reaches pods and services on the other machine, by mutual TLS and as itself.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use ztun_tests::{Family, Mesh, Node, Other, app, two_machines, wait};

use crate::{JUMBO, ORDINARY, PORT, SERVICE_PORT, shop};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

#[derive(Clone, Copy)]
enum Target {
    Pod,
    Service,
}

#[test]
fn a_pod_reaches_a_pod_as_itself_by_mutual_tls_at_mtu_1500() {
    reaches(Target::Pod, ORDINARY);
}

#[test]
fn a_pod_reaches_a_pod_as_itself_by_mutual_tls_at_mtu_9000() {
    reaches(Target::Pod, JUMBO);
}

#[test]
fn a_pod_reaches_a_service_as_itself_by_mutual_tls_at_mtu_1500() {
    reaches(Target::Service, ORDINARY);
}

#[test]
fn a_pod_reaches_a_service_as_itself_by_mutual_tls_at_mtu_9000() {
    reaches(Target::Service, JUMBO);
}

/// Over every family; both daemons tell of it while the connections are open.
fn reaches(target: Target, mtu: u32) {
    let asks = async |mesh: &Mesh, other: &mut Other| {
        other.meet("the server listens").await?;
        let mut open = Vec::new();
        for family in Family::ALL {
            let to = match target {
                Target::Pod => mesh.far_pod("shop/server").at(family, PORT),
                Target::Service => mesh.service("shop/server").at(family, SERVICE_PORT),
            };
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            open.push(stream);
        }
        other.meet("the client is answered").await?;
        tells_of_mutual_tls(mesh.node("a"), "source", "outbound").await?;
        other.meet("both daemons have told").await
    };
    let answers = async |mesh: &Mesh, other: &mut Other| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        other.meet("the server listens").await?;
        other.meet("the client is answered").await?;
        let client = mesh.far_pod("shop/client");
        let expected = Family::ALL.map(|family| client.at(family, 0).ip().to_canonical());
        let seen: Vec<_> = echo.peers().iter().map(SocketAddr::ip).collect();
        assert_eq!(seen, expected);
        tells_of_mutual_tls(mesh.node("b"), "destination", "inbound").await?;
        other.meet("both daemons have told").await
    };
    two_machines(shop(mtu), asks, answers);
}

/// The metrics and the status of this node show all connections, and no other, as mutual TLS of both identities.
async fn tells_of_mutual_tls(node: &Node, reporter: &str, direction: &str) -> Result<()> {
    let labels = [
        ("reporter", reporter),
        ("connection_security_policy", "mutual_tls"),
        ("source_principal", CLIENT),
        ("destination_principal", SERVER),
    ];
    let name = "istio_tcp_connections_opened_total";
    wait::until("every connection is counted", async || {
        let counted = node.counted(name, &labels);
        counted.is_ok_and(|counted| counted == Family::ALL.len() as u64)
    })
    .await?;
    assert_eq!(node.counted(name, &[])?, node.counted(name, &labels)?);

    let status = node.status().await?;
    let shown = status["connections"].as_array().map(Vec::as_slice);
    let shown = shown.unwrap_or_default();
    assert_eq!(shown.len(), Family::ALL.len(), "{status}");
    for connection in shown {
        let expected = [
            ("/direction", json!(direction)),
            ("/security", json!("mutual-tls")),
            ("/source/identity", json!(CLIENT)),
            ("/destination/identity", json!(SERVER)),
        ];
        for (pointer, value) in expected {
            let told: Option<&Value> = connection.pointer(pointer);
            assert_eq!(told, Some(&value), "{connection}");
        }
    }
    Ok(())
}
