//! A CA over the network that is down: nothing goes in clear, everybody is told, and it comes back.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use ztun_tests::{
    Family, MeshBuilder, Node, PodSpec,
    fake_ca::{self, FakeCa},
    manifest::Manifest,
    scenario, wait,
};

use crate::{PORT, reaches, shop_and_outsider};

/// Daemons that wait for a certificate for a second.
fn impatient(mesh: MeshBuilder) -> MeshBuilder {
    mesh.setting("timeouts.certificate", json!("1s"))
}

#[test]
fn while_the_ca_is_down_connections_are_refused_and_once_it_is_back_they_pass() -> Result<()> {
    let ca = FakeCa::new()?;
    scenario(
        ca.of_daemons(impatient(shop_and_outsider())),
        async |mesh| {
            let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
            let (node, other) = (mesh.node("a"), mesh.node("b"));
            let echo = server.echo(PORT)?;
            let _of_other = ca.start(other)?;
            becomes_ready(other).await?;

            let capture = mesh.capture()?;
            for &family in Family::available() {
                assert!(!reaches(client, server, family).await, "{family:?}");
            }
            assert_eq!(echo.peers(), []);
            assert_eq!(capture.finish()?.packets_of_port(PORT), 0);
            let (code, missing) = node.readiness()?;
            assert_eq!(code, 503);
            for part in [
                "spiffe://cluster.local/ns/shop/sa/client",
                fake_ca::URL,
                "refused",
            ] {
                assert!(missing.contains(part), "{part} is not in {missing}");
            }
            wait::until("the log says why connections are refused", async || {
                let log = node.log();
                let refusal = format!("of waiting for the CA at {}", fake_ca::URL);
                log.contains("no certificate issued") && log.contains(&refusal)
            })
            .await?;
            let failures = (
                "ztun_certificate_failures_total",
                [("reason", "unavailable")],
            );
            assert!(node.counted(failures.0, &failures.1)? > 0);

            let _of_node = ca.start(node)?;
            becomes_ready(node).await?;
            for &family in Family::available() {
                assert!(reaches(client, server, family).await, "{family:?}");
            }
            Ok(())
        },
    );
    Ok(())
}

#[test]
fn the_last_certificates_serve_until_they_expire_with_a_warning_well_before() -> Result<()> {
    let ca = FakeCa::new()?;
    let mesh = impatient(shop_and_outsider()).setting("certificateLifetime", json!("40s"));
    scenario(ca.of_daemons(mesh), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let (node, other) = (mesh.node("a"), mesh.node("b"));
        let _echo = server.echo(PORT)?;
        let (of_node, _of_other) = (ca.start(node)?, ca.start(other)?);
        becomes_ready(node).await?;
        becomes_ready(other).await?;

        drop(of_node);
        logs(node, "certificate expires soon").await?;
        assert_eq!(state_of_certificate(node)?, "expiring");
        assert!(reaches(client, server, Family::V4).await);
        logs(node, "certificate expired").await?;
        assert_eq!(state_of_certificate(node)?, "expired");
        wait::until("connections are refused", async || {
            !reaches(client, server, Family::V4).await
        })
        .await?;

        let _of_node = ca.start(node)?;
        wait::until("connections pass again", async || {
            reaches(client, server, Family::V4).await
        })
        .await
    });
    Ok(())
}

#[test]
fn a_certificate_is_there_before_its_pod_is() -> Result<()> {
    let ca = FakeCa::new()?;
    scenario(ca.of_daemons(shop_and_outsider()), async |mesh| {
        let node = mesh.node("a");
        let _ca = ca.start(node)?;
        becomes_ready(node).await?;
        let next = PodSpec::new("shop/next").on("a");
        let addresses = ["192.0.2.1".parse()?];
        mesh.apply(&Manifest::pod(&next, "uid-of-next", "a", &addresses))?;
        wait::until("the node has its certificate", async || {
            node.status().await.is_ok_and(|status| {
                let certificates = status["certificates"].as_array();
                certificates.into_iter().flatten().any(|certificate| {
                    certificate["identity"] == "spiffe://cluster.local/ns/shop/sa/next"
                        && certificate["serial"].is_string()
                })
            })
        })
        .await
    });
    Ok(())
}

/// The state of the only certificate that the node keeps.
fn state_of_certificate(node: &Node) -> Result<String> {
    for state in ["awaited", "valid", "expiring", "expired"] {
        if node.counted("ztun_certificates", &[("state", state)])? == 1 {
            return Ok(state.into());
        }
    }
    bail!("the node keeps no certificate");
}

async fn logs(node: &Node, line: &str) -> Result<()> {
    let limit = Duration::from_mins(1);
    wait::until_within(limit, line, async || node.log().contains(line)).await
}

async fn becomes_ready(node: &Node) -> Result<()> {
    wait::until("the node is ready", async || {
        node.readiness().is_ok_and(|(code, _)| code == 200)
    })
    .await
}
