//! Pods with users of their own (`hostUsers: false`), whose root has every capability over their network namespace.

use std::io::ErrorKind;

use anyhow::Result;
use rtnetlink::IpVersion;
use serde_json::json;
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, MtlsMode, PodSpec, Users, app, netlink::Netlink,
    rogue::HBONE_PORT, scenario,
};

use crate::PORT;

const MARKER: &str = "marker-of-a-pod-with-its-own-users";
/// Where `ztun` has its rules: the one that leads captured packets to loopback, and the one that stops those that
/// it did not lead there.
const RULE: u32 = 100;
const FENCE: u32 = 101;

/// A pod with users of its own on each of two nodes, and one with the node's users outside of the mesh.
fn shop() -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a").users(Users::Own))
        .pod(PodSpec::new("shop/server").on("b").users(Users::Own))
        .pod(
            PodSpec::new("outside/client")
                .on("b")
                .enrolment(Enrolment::Outside),
        )
}

#[test]
fn connections_are_captured_both_ways() {
    scenario(shop(), async |mesh| {
        for (from, to) in [
            ("shop/client", "shop/server"),
            ("shop/server", "shop/client"),
        ] {
            let (client, server) = (mesh.pod(from), mesh.pod(to));
            let who = server.who_am_i(PORT)?;
            let capture = mesh.capture()?;
            for &family in Family::available() {
                let seen = client.seen_by(server.at(family, PORT)).await?;
                assert_eq!(seen.ip(), client.at(family, 0).ip().to_canonical());
            }
            assert_eq!(who.peers().len(), Family::available().len());
            let recording = capture.finish()?;
            assert!(recording.packets_of_port(HBONE_PORT) > 0);
            assert_eq!(recording.packets_of_port(PORT), 0);
        }
        Ok(())
    });
}

#[test]
fn strict_refuses_plaintext_and_takes_the_mesh() {
    let mesh = shop().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let server = mesh.pod("shop/server");
        let echo = server.echo(PORT)?;
        for &family in Family::available() {
            let to = server.at(family, PORT);
            assert!(mesh.pod("outside/client").failure(to).await.is_some());
            assert_eq!(echo.peers(), []);
        }
        for &family in Family::available() {
            let mut stream = mesh
                .pod("shop/client")
                .connect(server.at(family, PORT))
                .await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        Ok(())
    });
}

#[test]
fn its_root_gets_out_in_clear_without_the_rules_but_not_past_strict_nor_a_dead_daemon() {
    let mesh = shop().peer_authentication("shop", MtlsMode::Strict);
    // Until the daemon looks.
    let mesh = mesh.setting("verifyInterval", json!("1h"));
    scenario(mesh, async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let outside = mesh.pod("outside/client");
        let (in_mesh, in_clear) = (server.echo(PORT)?, outside.echo(PORT)?);
        let root = Netlink::of_pod(client)?;

        // One rule alone: the fence holds.
        assert_eq!(remove(&root, RULE).await?, 2);
        for &family in Family::available() {
            for to in [server, outside] {
                let refused = client.connect(to.at(family, PORT)).await;
                let kind = refused.map(drop).map_err(|error| error.kind());
                assert_eq!(kind, Err(ErrorKind::NetworkUnreachable), "{family:?}");
            }
        }

        // Both: nothing holds what it sends, but who wants it encrypted does not take it.
        assert_eq!(remove(&root, FENCE).await?, 2);
        let capture = mesh.capture()?;
        for &family in Family::available() {
            assert!(client.failure(server.at(family, PORT)).await.is_some());
        }
        assert_eq!(in_mesh.peers(), []);
        let mut stream = client.connect(server.at(Family::V4, HBONE_PORT)).await?;
        assert!(app::exchange(&mut stream, MARKER).await.is_err());
        let recording = capture.finish()?;
        assert!(recording.packets_of_port(PORT) > 0, "it was not in clear");
        // On the same network it reaches whoever takes plaintext.
        for &family in Family::available() {
            let mut stream = client.connect(outside.at(family, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        assert_eq!(in_clear.peers().len(), Family::available().len());
        let status = mesh.node("a").status().await?;
        let capture = &status["pods"][0]["capture"];
        assert_eq!(capture["state"], "notCaptured", "{status}");
        let why = capture["why"].as_str().unwrap_or_default();
        assert!(why.contains("the rule for captured packets"), "{why}");

        // The programs are out of its reach: without a daemon they refuse what it opens.
        mesh.node("a").kill_daemon().await?;
        for &family in Family::available() {
            let refused = client.connect(outside.at(family, PORT)).await;
            let kind = refused.map(drop).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{family:?}");
        }
        Ok(())
    });
}

async fn remove(root: &Netlink, preference: u32) -> Result<usize> {
    let mut removed = 0;
    for family in [IpVersion::V4, IpVersion::V6] {
        removed += root.remove_rules(family, preference).await?;
    }
    Ok(removed)
}
