//! Certificates that are revoked: refused, and what is open is ended.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use ztun_tests::{
    Family, Mesh, MeshBuilder, PodSpec, app,
    authority::{Authority, replace},
    scenario, wait,
};

use crate::{PORT, exchange, shop_and_outsider};

/// Two clients on one node and a server on another, with a list that revokes nothing.
fn shop_with(crl: &Path) -> Result<MeshBuilder> {
    replace(crl, &Authority::new("Root CA")?.revoke(&[])?)?;
    Ok(shop_and_outsider()
        .pod(PodSpec::new("shop/other").on("a"))
        .setting("trust.crlFile", json!(crl)))
}

#[test]
fn a_revoked_clients_tunnels_end_and_it_gets_no_others() -> Result<()> {
    let files = TempDir::new()?;
    let crl = files.path().join("crl.pem");
    scenario(shop_with(&crl)?, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let (mut revoked, mut other) = (
            open(mesh, "shop/client").await?,
            open(mesh, "shop/other").await?,
        );
        let serial = serial(mesh, "shop/client").await?;
        revoke(mesh, &crl, &serial)?;

        is_reset(&mut revoked).await?;
        app::exchange(&mut other, "still here").await?;
        wait::until("the server's node says why", async || {
            let labels = [
                ("reporter", "destination"),
                ("response_flags", "CERT_REVOKED"),
            ];
            let counted = mesh
                .node("b")
                .counted("istio_tcp_connections_failed_total", &labels);
            counted.is_ok_and(|counted| counted == 1)
        })
        .await?;

        assert!(exchange(mesh, "shop/client").await.is_err());
        exchange(mesh, "shop/other").await?;
        wait::until("both nodes say why", async || {
            let refused = [("reason", "CertificateRevoked")];
            let counted = mesh
                .node("b")
                .counted("ztun_connections_refused_total", &refused);
            let failed = [("reporter", "source"), ("response_flags", "CERT_REVOKED")];
            let failed = mesh
                .node("a")
                .counted("istio_tcp_connections_failed_total", &failed);
            counted.is_ok_and(|count| count > 0) && failed.is_ok_and(|count| count > 0)
        })
        .await?;

        // Another certificate of the same identity is another matter.
        mesh.node("a").restart_daemon().await?;
        exchange(mesh, "shop/client").await
    });
    Ok(())
}

#[test]
fn a_revoked_servers_tunnels_end_and_nobody_connects_to_it() -> Result<()> {
    let files = TempDir::new()?;
    let crl = files.path().join("crl.pem");
    scenario(shop_with(&crl)?, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mut stream = open(mesh, "shop/client").await?;
        let serial = serial(mesh, "shop/server").await?;
        revoke(mesh, &crl, &serial)?;
        is_reset(&mut stream).await?;
        let failed = |count| {
            let labels = [("reporter", "source"), ("response_flags", "CERT_REVOKED")];
            let counted = mesh
                .node("a")
                .counted("istio_tcp_connections_failed_total", &labels);
            counted.is_ok_and(|counted| counted >= count)
        };
        wait::until("the client's node says why", async || failed(1)).await?;
        assert!(exchange(mesh, "shop/other").await.is_err());
        wait::until("the client's node says why it refuses", async || failed(2)).await
    });
    Ok(())
}

#[test]
fn a_list_that_goes_bad_revokes_what_it_revoked() -> Result<()> {
    let files = TempDir::new()?;
    let crl = files.path().join("crl.pem");
    scenario(shop_with(&crl)?, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let mut stream = open(mesh, "shop/client").await?;
        let serial = serial(mesh, "shop/client").await?;
        revoke(mesh, &crl, &serial)?;
        is_reset(&mut stream).await?;

        replace(&crl, "-----BEGIN X509 CRL-----")?;
        for node in mesh.nodes() {
            wait::until("the problem is told", async || {
                let status = node.status().await.unwrap_or_default();
                let problems = status["trust"]["problems"].to_string();
                problems.contains("crl.pem") && problems.contains("last good version stays")
            })
            .await?;
        }
        assert!(exchange(mesh, "shop/client").await.is_err());
        exchange(mesh, "shop/other").await
    });
    Ok(())
}

async fn open(mesh: &Mesh, client: &str) -> Result<TcpStream> {
    let to = mesh.pod("shop/server").at(Family::V4, PORT);
    let mut stream = mesh.pod(client).connect(to).await?;
    app::exchange(&mut stream, "hello").await?;
    Ok(stream)
}

async fn is_reset(stream: &mut TcpStream) -> Result<()> {
    let ended = tokio::time::timeout(wait::PATIENCE, stream.read_u8()).await;
    let error = ended.context("the tunnel stays open")?.err();
    let kind = error.context("the server spoke")?.kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    Ok(())
}

/// Of the certificate that the pod's node has for it.
async fn serial(mesh: &Mesh, pod: &str) -> Result<String> {
    let pod = mesh.pod(pod);
    let status = mesh.node_of(pod).status().await?;
    let certificates = status["certificates"]
        .as_array()
        .context("no certificates")?;
    let own = certificates
        .iter()
        .find(|it| it["identity"] == pod.identity());
    let serial = own.and_then(|it| it["serial"].as_str());
    Ok(serial.context("the pod has no certificate")?.to_owned())
}

fn revoke(mesh: &Mesh, crl: &Path, serial: &str) -> Result<()> {
    let list = Authority::of(&mesh.ca_directory())?.revoke(&[serial])?;
    replace(crl, &list)
}
