//! Peers on the HBONE port that lie, babble, or say nothing: refused, and nobody else is held up.

use std::net::SocketAddr;

use anyhow::Result;
use futures_util::future::try_join_all;
use http::StatusCode;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use ztun_tests::{
    Family, Mesh,
    rogue::{self, Claims, Credentials, HBONE_PORT},
    scenario, wait,
};

use crate::{PORT, reaches, shop_and_outsider};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
/// More than a node may let wait for a handshake of one pod.
const SLOW_PEERS: usize = 500;

#[test]
fn a_peer_with_a_certificate_of_the_mesh_gets_a_tunnel() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        let status = ask(mesh, &credentials, &own_authority(mesh)).await?;
        assert_eq!(status, StatusCode::OK);
        Ok(())
    });
}

#[test]
fn a_peer_of_another_trust_domain_is_refused() {
    let identity = "spiffe://elsewhere.example/ns/shop/sa/client";
    is_refused("whose trust domain this mesh does not trust", |mesh| {
        Credentials::issue(&mesh.ca_directory(), &Claims::of(identity)?)
    });
}

#[test]
fn a_peer_with_an_expired_certificate_is_refused() {
    is_refused("the certificate presented expired at", |mesh| {
        Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?.expired())
    });
}

#[test]
fn a_peer_without_a_spiffe_id_is_refused() {
    is_refused("has no SPIFFE identity", |mesh| {
        Credentials::issue(&mesh.ca_directory(), &Claims::dns("client.shop")?)
    });
}

#[test]
fn a_peer_with_a_certificate_of_another_authority_is_refused() {
    is_refused("not signed by a root that this mesh trusts", |_| {
        Credentials::forge(&Claims::of(CLIENT)?)
    });
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let peer = mesh.pod("outside/client");
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        let mut stream = rogue::tls(peer, hbone_port(mesh), None, &["h2"]).await?;
        rogue::closed(&mut stream).await?;
        is_reported(mesh, "Tls", "no certificate was presented").await?;
        still_serves(mesh).await
    });
}

#[test]
fn a_tunnel_to_the_address_of_another_pod_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let elsewhere = mesh.pod("outside/client");
        let echo = elsewhere.echo(PORT)?;
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        let authority = elsewhere.at(Family::V4, PORT).to_string();
        let status = ask(mesh, &credentials, &authority).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(echo.peers(), []);
        let server = mesh.pod("shop/server").v4;
        is_reported(
            mesh,
            "BadRequest",
            &format!("{authority} is not at {server}"),
        )
        .await
    });
}

#[test]
fn a_tunnel_to_a_port_of_ztun_itself_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        for port in [15001, 15006, HBONE_PORT] {
            let authority = mesh.pod("shop/server").at(Family::V4, port).to_string();
            let status = ask(mesh, &credentials, &authority).await?;
            assert_eq!(status, StatusCode::BAD_REQUEST, "port {port}");
        }
        is_reported(mesh, "BadRequest", "port 15001 is the proxy's own").await
    });
}

#[test]
fn a_peer_that_speaks_http_1_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        let peer = mesh.pod("outside/client");
        let spoken = async {
            let to = hbone_port(mesh);
            let mut stream = rogue::tls(peer, to, Some(&credentials), &["http/1.1"]).await?;
            let request = format!("CONNECT {} HTTP/1.1\r\n\r\n", own_authority(mesh));
            stream.write_all(request.as_bytes()).await?;
            rogue::closed(&mut stream).await
        };
        let answer = spoken.await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 "), "{answer}");
        is_reported(mesh, "Tls", "does not offer HTTP/2").await?;
        still_serves(mesh).await
    });
}

#[test]
fn a_peer_that_promises_http_2_and_speaks_http_1_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        let peer = mesh.pod("outside/client");
        let mut stream = rogue::tls(peer, hbone_port(mesh), Some(&credentials), &["h2"]).await?;
        let request = format!("CONNECT {} HTTP/1.1\r\n\r\n", own_authority(mesh));
        stream.write_all(request.as_bytes()).await?;
        let answer = rogue::closed(&mut stream).await?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 "), "{answer}");
        is_reported(mesh, "Http2", "refused").await?;
        still_serves(mesh).await
    });
}

#[test]
fn a_peer_that_asks_for_anything_but_a_tunnel_is_refused() {
    scenario(shop_and_outsider(), async |mesh| {
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(CLIENT)?)?;
        let peer = mesh.pod("outside/client");
        let status = rogue::get(peer, hbone_port(mesh), &credentials).await?;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        is_reported(mesh, "NotConnect", "GET instead of CONNECT").await?;
        still_serves(mesh).await
    });
}

#[test]
fn a_peer_that_sends_garbage_is_closed() {
    scenario(shop_and_outsider(), async |mesh| {
        let peer = mesh.pod("outside/client");
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 4096],
            &[0x16, 3, 1, 0xff, 0xff],
        ] {
            let mut stream = peer.connect(hbone_port(mesh)).await?;
            stream.write_all(garbage).await?;
            stream.shutdown().await?;
            rogue::closed(&mut stream).await?;
        }
        is_reported(mesh, "Tls", "what the peer sent is not TLS").await?;
        still_serves(mesh).await
    });
}

#[test]
fn handshakes_that_hang_and_those_over_the_bound_are_counted() {
    let mesh = shop_and_outsider()
        .setting("limits.pendingHandshakes", json!(2))
        .setting("timeouts.tlsHandshake", json!("1s"));
    scenario(mesh, async |mesh| {
        let peer = mesh.pod("outside/client");
        let mut slow = Vec::new();
        for _ in 0..6 {
            slow.push(peer.connect(hbone_port(mesh)).await?);
        }
        try_join_all(slow.iter_mut().map(rogue::closed)).await?;
        is_reported(mesh, "TooManyHandshakes", "handshakes at once").await?;
        let node = mesh.node("b");
        let late = [("reason", "HandshakeTimeout")];
        assert!(node.counted("ztun_connections_refused_total", &late)? > 0);
        still_serves(mesh).await
    });
}

#[test]
fn peers_that_never_finish_a_handshake_hold_up_nobody_and_are_closed() {
    scenario(shop_and_outsider(), async |mesh| {
        let peer = mesh.pod("outside/client");
        let connecting = (0..SLOW_PEERS).map(async |number| -> Result<TcpStream> {
            let mut stream = peer.connect(hbone_port(mesh)).await?;
            // Half of them begin a record, the others say nothing.
            if number % 2 == 0 {
                stream.write_all(&[0x16, 3, 1]).await?;
            }
            Ok(stream)
        });
        let slow: Vec<_> = futures_util::future::join_all(connecting).await;
        still_serves(mesh).await?;
        let mut slow: Vec<_> = slow.into_iter().flatten().collect();
        try_join_all(slow.iter_mut().map(rogue::closed)).await?;
        still_serves(mesh).await
    });
}

/// Asserts that a peer with these credentials gets no tunnel, reaches nothing, and is reported with `reason`.
fn is_refused(reason: &str, credentials: impl Fn(&Mesh) -> Result<Credentials>) {
    scenario(shop_and_outsider(), async |mesh| {
        let echo = mesh.pod("shop/server").echo(PORT)?;
        let credentials = credentials(mesh)?;
        let answer = ask(mesh, &credentials, &own_authority(mesh)).await;
        assert!(answer.is_err(), "got an answer: {answer:?}");
        assert_eq!(echo.peers(), []);
        drop(echo);
        is_reported(mesh, "Tls", reason).await?;
        still_serves(mesh).await
    });
}

async fn ask(mesh: &Mesh, credentials: &Credentials, authority: &str) -> Result<StatusCode> {
    let peer = mesh.pod("outside/client");
    rogue::hbone_connect(peer, hbone_port(mesh), credentials, authority).await
}

/// The refusal is counted under `kind`, and logged with `reason` where operators see it.
async fn is_reported(mesh: &Mesh, kind: &str, reason: &str) -> Result<()> {
    let node = mesh.node("b");
    let logged = |line: &str| {
        let level = line.split_whitespace().nth(1);
        level.is_some_and(|level| level != "DEBUG" && level != "TRACE") && line.contains(reason)
    };
    wait::until(format_args!("the log says: {reason}"), async || {
        node.log().lines().any(logged)
    })
    .await?;
    wait::until(format_args!("{kind} is counted"), async || {
        let counted = node.counted("ztun_connections_refused_total", &[("reason", kind)]);
        counted.is_ok_and(|counted| counted > 0)
    })
    .await
}

async fn still_serves(mesh: &Mesh) -> Result<()> {
    let server = mesh.pod("shop/server");
    let _echo = server.echo(PORT)?;
    assert!(reaches(mesh.pod("shop/client"), server, Family::V4).await);
    Ok(())
}

fn hbone_port(mesh: &Mesh) -> SocketAddr {
    mesh.pod("shop/server").at(Family::V4, HBONE_PORT)
}

fn own_authority(mesh: &Mesh) -> String {
    mesh.pod("shop/server").at(Family::V4, PORT).to_string()
}
