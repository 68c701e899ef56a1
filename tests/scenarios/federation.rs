//! Other trust domains: by their own roots, and other names of the mesh's own.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use ztun_tests::{
    Family, Mesh, MeshBuilder, PodSpec, app,
    authority::{Authority, replace},
    manifest::Manifest,
    rogue::{self, Claims, Credentials, HBONE_PORT},
    scenario, wait,
};

use crate::{PORT, exchange, shop_and_outsider};

const PARTNER: &str = "spiffe://partner.example/ns/shop/sa/client";
const OWN: &str = "spiffe://cluster.local/ns/shop/sa/client";

fn shop_with(bundles: &Path) -> MeshBuilder {
    shop_and_outsider().setting("trust.bundleDirectory", json!(bundles))
}

#[test]
fn a_federated_domain_enters_by_its_own_root_alone() -> Result<()> {
    let bundles = TempDir::new()?;
    let partner = Authority::new("Root CA")?;
    scenario(shop_with(bundles.path()), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let here = Authority::of(&mesh.ca_directory())?;
        let theirs = partner.issue(&Claims::of(PARTNER)?)?;
        assert!(ask(mesh, &theirs).await.is_err());

        replace(&bundles.path().join("partner.example.pem"), partner.root())?;
        wait::until("the partner is let in", async || {
            ask(mesh, &theirs)
                .await
                .is_ok_and(|status| status == StatusCode::OK)
        })
        .await?;
        // Neither root stands for the other domain.
        let forged = partner.issue(&Claims::of(OWN)?)?;
        assert!(ask(mesh, &forged).await.is_err());
        let forged = here.issue(&Claims::of(PARTNER)?)?;
        assert!(ask(mesh, &forged).await.is_err());
        exchange(mesh, "shop/client").await?;

        let status = mesh.node("b").status().await?;
        let domains = &status["trust"]["domains"];
        assert_eq!(domains[1]["trustDomain"], "partner.example", "{domains}");
        assert_eq!(domains[1]["relation"], "federated", "{domains}");
        Ok(())
    });
    Ok(())
}

#[test]
fn policies_tell_federated_identities_from_the_meshs_own() -> Result<()> {
    let bundles = TempDir::new()?;
    let partner = Authority::new("Root CA")?;
    fs::write(bundles.path().join("partner.example.pem"), partner.root())?;
    let only = |principal: &str| {
        let from = json!([{ "source": { "principals": [principal] } }]);
        let spec = json!({ "action": "ALLOW", "rules": [{ "from": from }] });
        Manifest::authorization_policy("shop", "only", &spec)
    };
    let mesh = shop_with(bundles.path()).manifest(only("cluster.local/ns/shop/sa/client"));
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let theirs = partner.issue(&Claims::of(PARTNER)?)?;
        assert_eq!(ask(mesh, &theirs).await?, StatusCode::UNAUTHORIZED);
        mesh.apply(&only("partner.example/ns/shop/sa/client"))?;
        wait::until("the policy is in force", async || {
            ask(mesh, &theirs)
                .await
                .is_ok_and(|status| status == StatusCode::OK)
        })
        .await?;
        assert!(exchange(mesh, "shop/client").await.is_err());
        Ok(())
    });
    Ok(())
}

#[test]
fn a_bundle_that_is_taken_away_ends_its_domains_tunnels() -> Result<()> {
    let bundles = TempDir::new()?;
    let partner = Authority::new("Root CA")?;
    let bundle = bundles.path().join("partner.example.pem");
    fs::write(&bundle, partner.root())?;
    scenario(shop_with(bundles.path()), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let theirs = partner.issue(&Claims::of(PARTNER)?)?;
        let pod = mesh.pod("outside/client");
        let to = mesh.pod("shop/server").at(Family::V4, HBONE_PORT);
        let mut tunnel = rogue::Tunnel::open(pod, to, &theirs, &authority(mesh)).await?;
        assert_eq!(tunnel.exchange("hello").await?, "hello");
        let mut own = mesh
            .pod("shop/client")
            .connect(mesh.pod("shop/server").at(Family::V4, PORT))
            .await?;
        app::exchange(&mut own, "hello").await?;

        fs::remove_file(&bundle)?;
        tunnel.is_reset().await?;
        assert!(ask(mesh, &theirs).await.is_err());
        app::exchange(&mut own, "still here").await?;
        Ok(())
    });
    Ok(())
}

#[test]
fn nodes_with_the_old_and_the_new_name_of_a_trust_domain_are_one_mesh() {
    let far = PodSpec::new("shop/far").on("b");
    let policy = json!({
        "action": "ALLOW",
        "rules": [{ "from": [{ "source": { "principals": [
            "cluster.local/ns/shop/sa/client",
            "cluster.local/ns/shop/sa/far",
        ] } }] }],
    });
    let mesh = shop_and_outsider()
        .pod(far)
        .pod(PodSpec::new("shop/near").on("a"))
        .setting("trustDomainAliases", json!("next.example"))
        .manifest(Manifest::authorization_policy("shop", "clients", &policy));
    scenario(mesh, async |mesh| {
        rename(mesh, "b", "next.example", "cluster.local").await?;
        let status = mesh.node("b").status().await?;
        assert_eq!(
            status["certificates"][0]["identity"],
            "spiffe://next.example/ns/shop/sa/far"
        );
        let near = mesh.pod("shop/near");
        let (_echo, _near) = (mesh.pod("shop/server").echo(PORT)?, near.echo(PORT)?);
        // In both directions, by the old name's policy.
        exchange(mesh, "shop/client").await?;
        let mut stream = mesh
            .pod("shop/far")
            .connect(near.at(Family::V4, PORT))
            .await?;
        assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
        let mut refused = near
            .connect(mesh.pod("shop/server").at(Family::V4, PORT))
            .await?;
        assert!(refused.read_u8().await.is_err());
        Ok(())
    });
}

/// Has a node's daemon start anew with another trust domain.
async fn rename(mesh: &Mesh, node: &str, domain: &str, alias: &str) -> Result<()> {
    let node = mesh.node(node);
    let text = fs::read_to_string(node.configuration())?;
    let mut configuration: Value = serde_norway::from_str(&text)?;
    configuration["trustDomain"] = json!(domain);
    configuration["trustDomainAliases"] = json!(alias);
    fs::write(
        node.configuration(),
        serde_norway::to_string(&configuration)?,
    )
    .context("write the daemon's configuration")?;
    node.restart_daemon().await
}

async fn ask(mesh: &Mesh, credentials: &Credentials) -> Result<StatusCode> {
    let to = mesh.pod("shop/server").at(Family::V4, HBONE_PORT);
    rogue::hbone_connect(
        mesh.pod("outside/client"),
        to,
        credentials,
        &authority(mesh),
    )
    .await
}

fn authority(mesh: &Mesh) -> String {
    mesh.pod("shop/server").at(Family::V4, PORT).to_string()
}
