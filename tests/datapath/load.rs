//! Much data, and many connections.

use std::io::ErrorKind;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::net::TcpStream;
use ztun_tests::{Enrolment, Family, Mesh, PodSpec, app, bulk::Bulk, scenario, wait};

use crate::{PORT, SERVICE_PORT, two_nodes};

const CONNECTIONS: usize = 1000;

#[test]
fn a_hundred_megabytes_arrive_intact_both_ways_on_the_same_node() {
    scenario(two_nodes(), async |mesh| {
        carries_much(mesh, "shop/near").await
    });
}

#[test]
fn a_hundred_megabytes_arrive_intact_both_ways_on_another_node() {
    scenario(two_nodes(), async |mesh| {
        carries_much(mesh, "shop/far").await
    });
}

#[test]
fn a_thousand_connections_at_once_work() {
    scenario(two_nodes(), async |mesh| {
        let client = mesh.pod("shop/client");
        let echo = mesh.pod("shop/far").echo(PORT)?;
        let to = mesh.service("shop/far").at(Family::V4, SERVICE_PORT);
        let connecting = (0..CONNECTIONS).map(async |number| -> Result<TcpStream> {
            let mut stream = client.connect(to).await.context("connect")?;
            let text = format!("connection {number}");
            assert_eq!(app::exchange(&mut stream, &text).await?, text);
            Ok(stream)
        });
        let mut streams = try_join_all(connecting).await?;
        assert_eq!(echo.peers().len(), CONNECTIONS);
        // All are open now; each still has its own peer.
        let again = streams.iter_mut().enumerate();
        try_join_all(again.map(async |(number, stream)| -> Result<()> {
            let text = format!("again {number}");
            assert_eq!(app::exchange(stream, &text).await?, text);
            Ok(())
        }))
        .await?;
        Ok(())
    });
}

#[test]
fn a_pod_has_no_more_open_connections_than_its_limit() {
    const LIMIT: usize = 3;
    // Outside of the mesh, so that the client's limit is the only one.
    let outside = PodSpec::new("outside/server").on("b");
    let mesh = two_nodes()
        .pod(outside.enrolment(Enrolment::Outside))
        .setting("limits.connections", json!(LIMIT));
    scenario(mesh, async |mesh| {
        let (client, outside) = (mesh.pod("shop/client"), mesh.pod("outside/server"));
        let echo = outside.echo(PORT)?;
        let to = outside.at(Family::V4, PORT);
        let mut open = Vec::new();
        for _ in 0..LIMIT {
            let mut stream = client.connect(to).await?;
            app::exchange(&mut stream, "hello").await?;
            open.push(stream);
        }
        assert_eq!(client.failure(to).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(echo.peers().len(), LIMIT);
        let counter = "ztun_connections_refused_total";
        let reason = [("reason", "TooManyConnections")];
        assert_eq!(mesh.node("a").counted(counter, &reason)?, 1);
        // One that ends makes room for another.
        drop(open.pop());
        wait::until("there is room again", async || {
            let Ok(mut stream) = client.connect(to).await else {
                return false;
            };
            app::exchange(&mut stream, "hello").await.is_ok()
        })
        .await
    });
}

/// Both directions at once, each with bytes of its own.
async fn carries_much(mesh: &Mesh, server: &str) -> Result<()> {
    const UP: Bulk = Bulk::new(1, 100 << 20);
    const DOWN: Bulk = Bulk::new(2, 100 << 20);
    let (received, mut checksum) = tokio::sync::mpsc::channel(1);
    let server = mesh.pod(server);
    let _server = server.serve(PORT, move |stream: TcpStream, _| {
        let received = received.clone();
        async move {
            let got = DOWN.swap(stream).await?;
            // The test that waits for this has failed if nobody listens.
            let _ = received.send(got).await;
            Ok(())
        }
    })?;
    let to = server.at(Family::V4, PORT);
    let stream = mesh.pod("shop/client").connect(to).await?;
    assert_eq!(UP.swap(stream).await?, DOWN.checksum());
    assert_eq!(checksum.recv().await, Some(UP.checksum()));
    Ok(())
}
