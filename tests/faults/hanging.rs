//! Peers that hang: the application learns of it, and nobody else waits.

use std::{io::ErrorKind, pin::pin};

use anyhow::{Result, bail};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, PodSpec, Stage, app,
    netlink::DeadEnd,
    rogue::{Claims, Credentials, HBONE_PORT},
    scenario, wait,
    wait::PATIENCE,
};

use crate::{PORT, shop_and_outsider};

const FAILED: &str = "istio_tcp_connections_failed_total";

/// A third pod that the mesh believes to be enrolled, and one time limit that is short.
fn with_a_hanging_peer(limit: &str) -> MeshBuilder {
    let hanging = PodSpec::new("shop/hanging").on("b");
    shop_and_outsider()
        .pod(hanging.enrolment(Enrolment::Claimed))
        .setting(limit, json!("2s"))
}

#[test]
fn a_peer_that_is_silent_in_the_tls_handshake_fails_its_own_streams_alone() {
    scenario(with_a_hanging_peer("timeouts.tlsHandshake"), async |mesh| {
        let _hanging = hangs_at(mesh, Stage::Tls)?;
        fails_alone(mesh, "TLS handshake", "TLS_FAILURE").await
    });
}

#[test]
fn a_peer_that_is_silent_after_tls_fails_its_own_streams_alone() {
    scenario(
        with_a_hanging_peer("timeouts.http2Handshake"),
        async |mesh| {
            let _hanging = hangs_at(mesh, Stage::Http2)?;
            fails_alone(mesh, "HTTP/2 handshake", "H2_HANDSHAKE_FAILURE").await
        },
    );
}

#[test]
fn a_peer_that_never_answers_connect_fails_its_own_streams_alone() {
    scenario(
        with_a_hanging_peer("timeouts.connectResponse"),
        async |mesh| {
            let _hanging = hangs_at(mesh, Stage::Connect)?;
            fails_alone(mesh, "CONNECT", "CONNECT").await
        },
    );
}

#[test]
fn a_peer_whose_packets_get_lost_fails_its_own_streams_alone() {
    scenario(with_a_hanging_peer("timeouts.tcpConnect"), async |mesh| {
        for address in [
            mesh.pod("shop/hanging").v4.into(),
            mesh.pod("shop/hanging").v6.into(),
        ] {
            mesh.node("a").dead_end(address, DeadEnd::Silent).await?;
        }
        fails_alone(mesh, "TCP connect", "NETWORK_POLICY").await?;
        assert!(mesh.node("a").log().contains("NetworkPolicy"));
        Ok(())
    });
}

#[test]
fn a_peer_that_takes_no_tunnels_is_reported_at_once() {
    scenario(with_a_hanging_peer("timeouts.drain"), async |mesh| {
        let to = mesh.pod("shop/hanging").at(Family::V4, PORT);
        let failure = mesh.pod("shop/client").failure(to).await;
        assert_eq!(failure, Some(ErrorKind::ConnectionReset));
        is_reported(mesh, "is its node's proxy running?", "CONNECT").await
    });
}

#[test]
fn a_peer_with_the_certificate_of_another_workload_gets_no_stream() {
    scenario(with_a_hanging_peer("timeouts.drain"), async |mesh| {
        let impostor = mesh.pod("outside/client").identity();
        let credentials = Credentials::issue(&mesh.ca_directory(), &Claims::of(&impostor)?)?;
        let hanging = mesh.pod("shop/hanging");
        let _impostor = hanging.hang_at(Stage::Connect, &credentials)?;
        let to = hanging.at(Family::V4, PORT);
        let failure = mesh.pod("shop/client").failure(to).await;
        assert_eq!(failure, Some(ErrorKind::ConnectionReset));
        let reason = format!("is of {impostor}, expected {}", hanging.identity());
        is_reported(mesh, &reason, "IDENTITY_ERROR").await
    });
}

fn hangs_at(mesh: &Mesh, stage: Stage) -> Result<app::App> {
    let hanging = mesh.pod("shop/hanging");
    let claims = Claims::of(&hanging.identity())?;
    let credentials = Credentials::issue(&mesh.ca_directory(), &claims)?;
    hanging.hang_at(stage, &credentials)
}

/// Streams to the hanging pod end in a reset with `stage` in the reason; one to another pod is served before.
async fn fails_alone(mesh: &Mesh, stage: &str, flag: &str) -> Result<()> {
    let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let hanging = mesh.pod("shop/hanging");
    let _echo = server.echo(PORT)?;
    let streams = async {
        for family in [Family::V4, Family::V6] {
            let mut stream = client.connect(hanging.at(family, PORT)).await?;
            stream.write_all(b"anybody there?").await?;
            let end = stream.read_to_end(&mut Vec::new()).await;
            let kind = end.map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{family:?}");
        }
        anyhow::Ok(())
    };
    let mut streams = pin!(timeout(PATIENCE, streams));
    let others = async {
        let mut stream = client.connect(server.at(Family::V4, PORT)).await?;
        app::exchange(&mut stream, "hello").await
    };
    tokio::select! {
        biased;
        ended = &mut streams => bail!("the hanging peer was given up before another was served: {ended:?}"),
        answer = others => assert_eq!(answer?, "hello"),
    }
    streams.await??;
    for family in [Family::V4, Family::V6] {
        let proxy = hanging.at(family, HBONE_PORT);
        is_reported(mesh, &format!("{stage} with {proxy} timed out"), flag).await?;
    }
    Ok(())
}

/// The reason is in the access log, and the failure among the metrics.
async fn is_reported(mesh: &Mesh, reason: &str, flag: &str) -> Result<()> {
    let node = mesh.node("a");
    wait::until(format_args!("the log says: {reason}"), async || {
        node.log().contains(reason)
    })
    .await?;
    let labels = [
        ("reporter", "source"),
        ("destination_workload", "hanging"),
        ("response_flags", flag),
    ];
    assert!(node.counted(FAILED, &labels)? > 0, "{}", node.metrics()?);
    Ok(())
}
