//! Into and out of the mesh, and what can't be reached: ends arrive as what they were.

use std::io::ErrorKind;

use anyhow::Result;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, app, netlink::DeadEnd, pod::Pod, scenario, wait,
    wait::PATIENCE,
};

use crate::{PORT, two_nodes};

/// What a server has seen of a connection: the bytes, and how it ended.
type Seen = Result<Vec<u8>, ErrorKind>;

/// Out of the mesh and into it, on one node and on two.
const PAIRS: [(&str, &str); 4] = [
    ("shop/client", "outside/near"),
    ("shop/client", "outside/far"),
    ("outside/near", "shop/near"),
    ("outside/near", "shop/far"),
];

fn with_outsiders() -> MeshBuilder {
    let outside = |path: &str, node| PodSpec::new(path).on(node).enrolment(Enrolment::Outside);
    two_nodes()
        .pod(outside("outside/near", "a"))
        .pod(outside("outside/far", "b"))
}

fn on_every_pair(mut test: impl AsyncFnMut(&Pod, &Pod) -> Result<()>) {
    scenario(with_outsiders(), async |mesh| {
        for (client, server) in PAIRS {
            test(mesh.pod(client), mesh.pod(server)).await?;
        }
        Ok(())
    });
}

#[test]
fn plaintext_reaches_its_destination_over_every_family() {
    on_every_pair(async |client, server| {
        let echo = server.echo(PORT)?;
        for family in Family::ALL {
            let mut stream = client.connect(server.at(family, PORT)).await?;
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
            let seen = echo.peers().last().copied();
            assert_eq!(
                seen.map(|peer| peer.ip()),
                Some(client.at(family, 0).ip().to_canonical())
            );
        }
        Ok(())
    });
}

#[test]
fn a_plaintext_client_that_has_finished_sending_still_receives() {
    on_every_pair(async |client, server| {
        let (_app, mut seen) = records(server)?;
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        stream.write_all(b"all of it").await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        assert_eq!(answer, b"!?");
        assert_eq!(
            timeout(PATIENCE, seen.recv()).await?,
            Some(Ok(b"all of it".to_vec()))
        );
        Ok(())
    });
}

#[test]
fn a_plaintext_server_that_has_finished_sending_still_receives() {
    on_every_pair(async |client, server| {
        let (told, mut seen) = mpsc::channel(1);
        let _app = server.serve(PORT, move |mut stream: TcpStream, _| {
            let told = told.clone();
            async move {
                stream.shutdown().await?;
                let mut received = String::new();
                stream.read_to_string(&mut received).await?;
                // The test that waits for this has failed if nobody listens.
                let _ = told.send(received).await;
                Ok(())
            }
        })?;
        let mut stream = client.connect(server.at(Family::V6, PORT)).await?;
        let mut nothing = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut nothing)).await??;
        assert_eq!(nothing, b"");
        stream.write_all(b"still sending").await?;
        stream.shutdown().await?;
        assert_eq!(
            timeout(PATIENCE, seen.recv()).await?.as_deref(),
            Some("still sending")
        );
        Ok(())
    });
}

#[test]
fn a_reset_by_a_plaintext_client_is_a_reset_for_the_server() {
    on_every_pair(async |client, server| {
        let (_app, mut seen) = records(server)?;
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        assert_eq!(stream.read_u8().await?, b'!');
        app::reset(stream)?;
        let end = timeout(PATIENCE, seen.recv()).await?;
        assert_eq!(end, Some(Err(ErrorKind::ConnectionReset)));
        Ok(())
    });
}

#[test]
fn a_reset_by_a_plaintext_server_is_a_reset_for_the_client() {
    on_every_pair(async |client, server| {
        let _app = server.reset_after(PORT, 5)?;
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        stream.write_all(b"12345").await?;
        let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset)
        );
        Ok(())
    });
}

#[test]
fn a_refused_plaintext_connection_is_an_error_for_the_client() {
    on_every_pair(async |client, server| {
        for family in Family::ALL {
            let failure = client.failure(server.at(family, PORT)).await;
            assert!(
                matches!(
                    failure,
                    Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
                ),
                "{family:?}: {failure:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_destination_without_a_route_is_an_error_with_the_reason_in_the_log() {
    scenario(with_outsiders(), async |mesh| {
        dead_end(mesh, DeadEnd::Unreachable, "unreachable").await
    });
}

#[test]
fn a_destination_that_swallows_packets_is_an_error_with_the_stage_in_the_log() {
    let mesh = with_outsiders().setting("timeouts.tcpConnect", json!("1s"));
    scenario(mesh, async |mesh| {
        dead_end(mesh, DeadEnd::Silent, "TCP connect").await
    });
}

async fn dead_end(mesh: &Mesh, kind: DeadEnd, reason: &str) -> Result<()> {
    let (client, far) = (mesh.pod("shop/client"), mesh.pod("outside/far"));
    for family in [Family::V4, Family::V6] {
        let to = far.at(family, PORT);
        mesh.node("a").dead_end(to.ip(), kind).await?;
        let failure = client.failure(to).await;
        assert_eq!(failure, Some(ErrorKind::ConnectionReset), "{family:?}");
        // The kernel's word for an unreachable IPv4 host.
        let says = |line: &str| line.contains(reason) || line.contains("No route to host");
        wait::until(
            format_args!("the log names {to} and {reason}"),
            async || {
                let log = mesh.node("a").log();
                log.lines()
                    .any(|line| line.contains(&to.to_string()) && says(line))
            },
        )
        .await?;
    }
    Ok(())
}

/// A server that sends `!`, reports how the client ended, and sends `?` after an orderly end.
fn records(server: &Pod) -> Result<(app::App, mpsc::Receiver<Seen>)> {
    let (told, seen) = mpsc::channel(1);
    let app = server.serve(PORT, move |mut stream: TcpStream, _| {
        let told = told.clone();
        async move {
            stream.write_all(b"!").await?;
            let mut received = Vec::new();
            let end = stream.read_to_end(&mut received).await;
            // The test that waits for this has failed if nobody listens.
            let _ = told
                .send(end.map(|_| received).map_err(|error| error.kind()))
                .await;
            stream.write_all(b"?").await?;
            stream.shutdown().await
        }
    })?;
    Ok((app, seen))
}
