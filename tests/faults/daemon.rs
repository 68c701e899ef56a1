//! A dead daemon means refused connections, never plaintext.

use std::io::ErrorKind;

use anyhow::Result;
use serde_json::json;
use tokio::{io::AsyncReadExt, time::timeout};
use ztun_tests::{Family, Mesh, app, scenario, wait, wait::PATIENCE};

use crate::{PORT, reaches, shop_and_outsider};

const MARKER: &str = "marker-of-a-dead-daemon";

#[test]
fn connections_out_of_a_pod_are_refused_while_its_daemon_is_dead() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, outside) = (mesh.pod("shop/client"), mesh.pod("outside/client"));
        let echo = outside.echo(PORT)?;
        mesh.node("a").kill_daemon().await?;
        let capture = mesh.capture()?;
        for server in [outside, mesh.pod("shop/server")] {
            for &family in Family::available() {
                let refused = client.connect(server.at(family, PORT)).await;
                let kind = refused.map(drop).map_err(|error| error.kind());
                assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{family:?}");
            }
        }
        assert_eq!(echo.peers(), []);
        assert_eq!(capture.finish()?.packets_of_port(PORT), 0);
        Ok(())
    });
}

#[test]
fn connections_into_a_pod_are_refused_while_its_daemon_is_dead() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let echo = server.echo(PORT)?;
        mesh.node("b").kill_daemon().await?;
        for client in ["outside/client", "shop/client"] {
            for &family in Family::available() {
                assert!(
                    !reaches(mesh.pod(client), server, family).await,
                    "{client} got through over {family:?}"
                );
            }
        }
        assert_eq!(echo.peers(), []);
        Ok(())
    });
}

#[test]
fn an_open_connection_ends_in_a_reset_when_its_daemon_dies() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let to = server.at(Family::V4, PORT);
        let mut stream = mesh.pod("shop/client").connect(to).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        mesh.node("a").kill_daemon().await?;
        let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
        let kind = end.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::ConnectionReset), "silent truncation");
        Ok(())
    });
}

#[test]
fn a_daemon_that_starts_after_a_crash_takes_its_pods_over() {
    scenario(shop_and_outsider(), async |mesh| {
        for node in mesh.nodes() {
            node.kill_daemon().await?;
        }
        for node in mesh.nodes() {
            node.start_daemon().await?;
        }
        is_encrypted_again(mesh).await
    });
}

#[test]
fn a_daemon_that_is_terminated_ends_cleanly_and_starts_again() {
    scenario(shop_and_outsider(), async |mesh| {
        for node in mesh.nodes() {
            node.restart_daemon().await?;
        }
        is_encrypted_again(mesh).await
    });
}

#[test]
fn a_terminated_daemon_lets_open_connections_finish() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let to = server.at(Family::V4, PORT);
        let mut stream = mesh.pod("shop/client").connect(to).await?;
        assert_eq!(app::exchange(&mut stream, "before").await?, "before");
        mesh.node("a").terminate_daemon().await?;
        assert_eq!(app::exchange(&mut stream, "draining").await?, "draining");
        drop(stream);
        mesh.node("a").daemon_ends().await
    });
}

#[test]
fn a_terminated_daemon_is_not_ready_and_takes_no_new_connections() {
    scenario(shop_and_outsider(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let _echo = server.echo(PORT)?;
        let mut into = mesh
            .pod("outside/client")
            .connect(server.at(Family::V4, PORT))
            .await?;
        assert_eq!(app::exchange(&mut into, "before").await?, "before");
        let mut out = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(app::exchange(&mut out, "before").await?, "before");
        mesh.node("b").terminate_daemon().await?;
        wait::until("the daemon drains", async || {
            mesh.node("b")
                .readiness()
                .is_ok_and(|(code, why)| code == 503 && why.contains("draining"))
        })
        .await?;
        for client in [client, mesh.pod("outside/client")] {
            for &family in Family::available() {
                let failure = client.failure(server.at(family, PORT)).await;
                assert!(
                    failure.is_some(),
                    "{} got in over {family:?}",
                    client.path()
                );
            }
        }
        // What was open goes on, in the tunnel and in clear, and ends as its ends want.
        for stream in [&mut into, &mut out] {
            assert_eq!(app::exchange(stream, "draining").await?, "draining");
        }
        drop((into, out));
        mesh.node("b").daemon_ends().await
    });
}

#[test]
fn a_daemon_that_has_drained_long_enough_resets_what_is_still_open() {
    let mesh = shop_and_outsider().setting("timeouts.drain", json!("1s"));
    scenario(mesh, async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        for node in ["a", "b"] {
            let to = server.at(Family::V4, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "before").await?, "before");
            mesh.node(node).terminate_daemon().await?;
            mesh.node(node).daemon_ends().await?;
            let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
            let kind = end.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::ConnectionReset), "node {node}");
            assert!(mesh.node(node).log().contains("drain limit reached"));
            mesh.node(node).start_daemon().await?;
        }
        Ok(())
    });
}

async fn is_encrypted_again(mesh: &Mesh) -> Result<()> {
    let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let _echo = server.echo(PORT)?;
    wait::until("the pods reach each other", async || {
        reaches(client, server, Family::V4).await
    })
    .await?;
    let capture = mesh.capture()?;
    for &family in Family::available() {
        let mut stream = client.connect(server.at(family, PORT)).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    }
    let recording = capture.finish()?;
    assert_eq!(recording.packets_of_port(PORT), 0);
    assert_eq!(recording.flows_with(MARKER), []);
    Ok(())
}

#[test]
fn a_pod_whose_record_is_lost_stays_closed_until_it_is_enrolled_again() {
    scenario(shop_and_outsider(), async |mesh| {
        let (node, client) = (mesh.node("a"), mesh.pod("shop/client"));
        let outside = mesh.pod("outside/client");
        let _echo = outside.echo(PORT)?;
        node.kill_daemon().await?;
        std::fs::remove_dir_all(node.directory.join("state/pods"))?;
        node.start_daemon().await?;
        let refused = client.connect(outside.at(Family::V4, PORT)).await;
        let kind = refused.map(drop).map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::PermissionDenied));
        assert!(node.log().contains("its record is lost"), "{}", node.log());

        mesh.enrol("shop/client").await?;
        assert!(reaches(client, outside, Family::V4).await);
        Ok(())
    });
}
