//! Certificates: whose they are, and that nobody notices when they change.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::Instant;
use ztun_tests::{Family, Mesh, app, scenario, wait};

use crate::{PORT, SERVICE_PORT, shop_and_outsider};

#[test]
fn every_hosted_identity_has_a_certificate_and_no_other() {
    scenario(shop_and_outsider(), async |mesh| {
        for (node, pod) in [("a", "shop/client"), ("b", "shop/server")] {
            let status = mesh.node(node).status().await?;
            assert_eq!(identities(&status)?, [mesh.pod(pod).identity()]);
        }
        Ok(())
    });
}

#[test]
fn certificates_rotate_under_traffic_without_an_error() {
    let mesh = shop_and_outsider().setting("certificateLifetime", json!("20s"));
    scenario(mesh, async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let to = mesh.service("shop/server").at(Family::V4, SERVICE_PORT);
        let client = mesh.pod("shop/client");
        let mut long_lived = client.connect(to).await?;
        app::exchange(&mut long_lived, "before").await?;
        let first = serials(mesh).await?;
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut now = first.clone();
        while now.iter().zip(&first).any(|(now, first)| now == first) {
            assert!(Instant::now() < deadline, "the certificates never change");
            let mut stream = client.connect(to).await?;
            app::exchange(&mut stream, "hello").await?;
            app::exchange(&mut long_lived, "still here").await?;
            now = serials(mesh).await?;
        }
        // One that is made with the new certificates.
        let mut stream = client.connect(to).await?;
        app::exchange(&mut stream, "afterwards").await?;
        Ok(())
    });
}

#[test]
fn the_status_shows_both_identities_of_a_connection() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        app::exchange(&mut stream, "hello").await?;
        for node in ["a", "b"] {
            wait::until(
                format_args!("node {node} shows the connection"),
                async || {
                    let status = mesh.node(node).status().await.unwrap_or_default();
                    let connections = status["connections"].to_string();
                    connections.contains(&client.identity())
                        && connections.contains(&server.identity())
                },
            )
            .await?;
        }
        Ok(())
    });
}

async fn serials(mesh: &Mesh) -> Result<Vec<String>> {
    let mut serials = Vec::new();
    for node in mesh.nodes() {
        for certificate in certificates(&node.status().await?)? {
            serials.push(certificate["serial"].to_string());
        }
    }
    Ok(serials)
}

fn identities(status: &Value) -> Result<Vec<String>> {
    let certificates = certificates(status)?.iter();
    certificates
        .map(|certificate| {
            Ok(certificate["identity"]
                .as_str()
                .context("no identity")?
                .into())
        })
        .collect()
}

fn certificates(status: &Value) -> Result<&Vec<Value>> {
    status["certificates"]
        .as_array()
        .with_context(|| format!("no certificates in {status}"))
}
