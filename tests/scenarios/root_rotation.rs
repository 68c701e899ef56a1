//! The CA's root is exchanged while traffic runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use ztun_tests::{
    Family, Mesh, MeshBuilder, app,
    authority::{Authority, replace},
    rogue::{self, Claims, HBONE_PORT},
    scenario, wait,
};

use crate::{PORT, shop_and_outsider};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

/// Certificates are renewed every ten seconds.
fn shop() -> MeshBuilder {
    shop_and_outsider().setting("certificateLifetime", json!("20s"))
}

#[test]
fn a_root_is_exchanged_in_three_steps_and_no_connection_fails() {
    scenario(shop(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let old = Authority::of(&mesh.ca_directory())?;
        let next = Authority::new("next root")?;
        let stolen = old.issue(&Claims::of(CLIENT)?)?;
        let authority = mesh.pod("shop/server").at(Family::V4, PORT).to_string();
        let ask = async |credentials| {
            let to = mesh.pod("shop/server").at(Family::V4, HBONE_PORT);
            rogue::hbone_connect(mesh.pod("outside/client"), to, credentials, &authority).await
        };
        assert_eq!(ask(&stolen).await?, 200);

        let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        let traffic = traffic(mesh, &over, &made);
        let exchange = async {
            exchange_root(mesh, &old, &next).await?;
            let enough = made.load(Ordering::Relaxed) + 100;
            wait::until("connections go on afterwards", async || {
                made.load(Ordering::Relaxed) > enough
            })
            .await?;
            over.store(true, Ordering::Relaxed);
            anyhow::Ok(())
        };
        let (outcome, exchanged) = tokio::join!(traffic, exchange);
        outcome?;
        exchanged?;
        // What the old root signed is worth nothing now.
        assert!(ask(&stolen).await.is_err());
        Ok(())
    });
}

#[test]
fn a_tunnel_that_only_a_removed_root_proves_is_ended() {
    scenario(shop(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let client = mesh.pod("shop/client");
        let mut before = client.connect(server.at(Family::V4, PORT)).await?;
        app::exchange(&mut before, "hello").await?;
        let (old, next) = (
            Authority::of(&mesh.ca_directory())?,
            Authority::new("next root")?,
        );
        exchange_root(mesh, &old, &next).await?;
        let mut rest = Vec::new();
        // By a reset: nothing that was cut off may look complete.
        assert!(before.read_to_end(&mut rest).await.is_err());
        // Neither end's certificate is believed by the other any more: one of them was first.
        wait::until("a node says why", async || {
            let labels = [("response_flags", "IDENTITY_ERROR")];
            let failed = "istio_tcp_connections_failed_total";
            let counted = mesh
                .nodes()
                .iter()
                .map(|node| node.counted(failed, &labels));
            counted.flatten().sum::<u64>() > 0
        })
        .await
    });
}

/// As docs/identity.md has it.
async fn exchange_root(mesh: &Mesh, old: &Authority, next: &Authority) -> Result<()> {
    let certificate = mesh.ca_directory().join("root-cert.pem");
    replace(&certificate, &[old.root(), next.root()].concat())?;
    every_node(mesh, "trusts both roots", |status| {
        own_roots(status) == Some(2)
    })
    .await?;

    replace(&mesh.ca_directory().join("root-key.pem"), &next.key())?;
    every_node(mesh, "has certificates of the next root", |status| {
        let certificates = status["certificates"].as_array();
        let issuers = certificates
            .into_iter()
            .flatten()
            .map(|it| it["issuer"].as_str());
        issuers
            .into_iter()
            .all(|issuer| issuer == Some("CN=next root"))
    })
    .await?;

    replace(&certificate, next.root())?;
    every_node(mesh, "trusts the next root alone", |status| {
        own_roots(status) == Some(1)
    })
    .await
}

async fn every_node(mesh: &Mesh, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    for node in mesh.nodes() {
        wait::until(format_args!("node {} {what}", node.name), async || {
            node.status().await.is_ok_and(|status| is(&status))
        })
        .await?;
    }
    Ok(())
}

fn own_roots(status: &Value) -> Option<usize> {
    Some(status["trust"]["domains"][0]["roots"].as_array()?.len())
}

/// Makes one connection after the other; none may fail.
async fn traffic(mesh: &Mesh, over: &AtomicBool, made: &AtomicUsize) -> Result<()> {
    let to = mesh.pod("shop/server").at(Family::V4, PORT);
    while !over.load(Ordering::Relaxed) {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let exchanged = async {
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            anyhow::Ok(app::exchange(&mut stream, "hello").await?)
        };
        let answer = exchanged.await;
        if answer.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        let answer = answer.with_context(|| format!("connection {number}"))?;
        assert_eq!(answer, "hello");
    }
    Ok(())
}
