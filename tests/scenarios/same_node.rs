//! Pods of one node: direct by default, through a tunnel where the configuration asks for it.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use ztun_tests::{Family, Mesh, MeshBuilder, MtlsMode, PodSpec, ServiceSpec, app, scenario};

use crate::{PORT, SERVICE_PORT};

fn one_node() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a"])
        .pod(PodSpec::new("shop/client"))
        .pod(PodSpec::new("shop/server"))
        .service(ServiceSpec::new("shop/server").port(SERVICE_PORT, PORT))
        .service(ServiceSpec::new("shop/client").port(SERVICE_PORT, PORT))
        .peer_authentication("shop", MtlsMode::Strict)
}

#[test]
fn connections_on_one_node_are_direct_and_satisfy_strict() {
    scenario(one_node(), async |mesh| all_are(mesh, "same-node").await);
}

#[test]
fn connections_on_one_node_are_encrypted_when_tunnels_are_configured() {
    let mesh = one_node().setting("sameNode", json!("tunnel"));
    scenario(mesh, async |mesh| all_are(mesh, "mutual-tls").await);
}

#[test]
fn a_pod_reaches_itself_through_its_service_also_when_tunnels_are_configured() {
    let mesh = one_node().setting("sameNode", json!("tunnel"));
    scenario(mesh, async |mesh| {
        let client = mesh.pod("shop/client");
        let _echo = client.echo(PORT)?;
        for family in Family::ALL {
            let to = mesh.service("shop/client").at(family, SERVICE_PORT);
            let mut stream = client.connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "myself").await?, "myself");
        }
        Ok(())
    });
}

async fn all_are(mesh: &Mesh, security: &str) -> Result<()> {
    let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let echo = server.echo(PORT)?;
    let mut open = Vec::new();
    for family in Family::ALL {
        for to in [
            server.at(family, PORT),
            mesh.service("shop/server").at(family, SERVICE_PORT),
        ] {
            let mut stream = client.connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let seen = echo.peers().last().map(SocketAddr::ip);
            assert_eq!(seen, Some(client.at(family, 0).ip().to_canonical()));
            open.push(stream);
        }
    }
    let status = mesh.node("a").status().await?;
    let shown = status["connections"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    assert_eq!(
        shown.len(),
        2 * open.len(),
        "each is outbound and inbound: {status}"
    );
    for connection in shown {
        assert_eq!(connection["security"], json!(security), "{status}");
        assert_eq!(
            connection["encrypted"],
            json!(security == "mutual-tls"),
            "{status}"
        );
        let identities = ["source", "destination"].map(|end| &connection[end]["identity"]);
        let expected = [client, server].map(|pod| Value::from(pod.identity()));
        assert_eq!(identities, [&expected[0], &expected[1]], "{status}");
    }
    Ok(())
}
