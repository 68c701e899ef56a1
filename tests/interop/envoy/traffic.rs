//! What goes through a tunnel arrives as it was sent, whichever end is Envoy's.

use std::{io, io::ErrorKind, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use ztun_tests::{
    Family,
    app::{self, App},
    bulk::Bulk,
    pod::Pod,
    rogue::HBONE_PORT,
    scenario,
    servers::{NGINX_PORT, Server, client},
    wait::PATIENCE,
};

use super::{End, PORT, Way, pod_and_envoy};

const MARKER: &str = "marker-of-a-real-server";
const WORDS: &[u8] = b"words";
/// More than one connection may have at once, by either peer's limit.
const STREAMS: usize = 300;
const INTERVAL: Duration = Duration::from_millis(10);

#[test]
fn nginx_serves_curl_encrypted() {
    let mesh = pod_and_envoy().needs("nginx").needs("curl");
    scenario(mesh, async |mesh| {
        let large = MARKER.repeat(1 << 18);
        let files = [("small", MARKER.as_bytes()), ("large", large.as_bytes())];
        for end in End::BOTH {
            for family in [Family::V4, Family::V6] {
                let way = end.open(mesh, family).await?;
                let _nginx = Server::nginx(mesh, way.server, &files).await?;
                let base = format!("http://{}", way.to(NGINX_PORT));
                let capture = mesh.capture()?;
                let curl = async |arguments: &[&str]| {
                    let all = [&["-sS", "--fail", "--max-time", "60"], arguments].concat();
                    client(way.client, "curl", &all).await
                };
                let (small, large_file) = (format!("{base}/small"), format!("{base}/large"));
                // One connection, and then another one.
                let both = curl(&[&small, &large_file]).await?;
                ensure!(both == format!("{MARKER}{large}"), "{end:?} {family:?}");
                assert_eq!(curl(&[&small]).await?, MARKER);
                let recording = capture.finish()?;
                assert!(recording.packets_of_port(HBONE_PORT) > 0);
                assert_eq!(recording.flows_with(MARKER), []);
            }
        }
        Ok(())
    });
}

#[test]
fn a_hundred_megabytes_arrive_intact_both_ways_from_envoy() {
    carries_much(End::Client);
}

#[test]
fn a_hundred_megabytes_arrive_intact_both_ways_to_envoy() {
    carries_much(End::Server);
}

#[test]
fn a_server_may_speak_first() {
    each_way(&async |way: &Way<'_>| {
        let _greeting = way.server.greet(PORT, "220 ready\r\n")?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        let mut greeting = [0; 11];
        timeout(PATIENCE, stream.read_exact(&mut greeting)).await??;
        assert_eq!(&greeting, b"220 ready\r\n");
        assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
        Ok(())
    });
}

#[test]
fn a_client_that_has_finished_sending_still_receives() {
    each_way(&async |way: &Way<'_>| {
        let _count = way
            .server
            .serve(PORT, |mut stream: TcpStream, _| async move {
                let mut received = Vec::new();
                stream.read_to_end(&mut received).await?;
                let answer = received.len().to_string();
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            })?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        stream.write_all(b"twelve bytes").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        assert_eq!(answer, "12");
        Ok(())
    });
}

#[test]
fn a_server_that_has_finished_sending_still_receives_from_envoy() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let (mut end, _server) = speaks_first(way.server, Then::Finish)?;
        let mut stream = hear_out(&way).await?;
        stream.write_all(b"still sending").await?;
        stream.shutdown().await?;
        let end = timeout(PATIENCE, end.recv()).await?;
        assert_eq!(end, Some(Ok("still sending".into())));
        Ok(())
    });
}

/// Envoy ends the tunnel with its answer, as HTTP has it: nothing that the client says then must seem to
/// have arrived.
#[test]
fn a_server_behind_envoy_that_has_finished_sending_ends_the_connection() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Server.open(mesh, Family::V4).await?;
        let (_end, _server) = speaks_first(way.server, Then::Finish)?;
        let mut stream = hear_out(&way).await?;
        let failed = async {
            while stream.write_all(b"still sending").await.is_ok() {
                sleep(INTERVAL).await;
            }
        };
        timeout(PATIENCE, failed).await?;
        Ok(())
    });
}

#[test]
fn a_reset_by_the_server_is_no_end_for_the_client() {
    each_way(&async |way: &Way<'_>| {
        let _server = way.server.reset_after(PORT, 5)?;
        let mut stream = way.client.connect(way.to(PORT)).await?;
        stream.write_all(b"hello").await?;
        let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
        assert_eq!(kind(end), Err(ErrorKind::ConnectionReset));
        Ok(())
    });
}

#[test]
fn a_reset_by_the_client_is_no_end_for_the_server_behind_ztun() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Client.open(mesh, Family::V4).await?;
        let (mut end, _server) = speaks_first(way.server, Then::GoOn)?;
        hear_and_reset(&way).await?;
        let end = timeout(PATIENCE, end.recv()).await?;
        assert_eq!(end, Some(Err(ErrorKind::ConnectionReset)));
        Ok(())
    });
}

/// What Envoy makes of it for its application is Envoy's affair: an end.
#[test]
fn a_reset_by_the_client_is_no_end_for_an_envoy() {
    scenario(pod_and_envoy(), async |mesh| {
        let way = End::Server.open(mesh, Family::V4).await?;
        let (_end, _server) = speaks_first(way.server, Then::GoOn)?;
        hear_and_reset(&way).await?;
        let reset = json!("http2.remote_reset");
        way.envoy.tunnel_with("details", &reset).await?;
        Ok(())
    });
}

#[test]
fn many_streams_share_few_connections() {
    each_way(&async |way: &Way<'_>| {
        let echo = way.server.echo(PORT)?;
        // Before it knows a peer, an Envoy opens a connection for each tunnel that waits.
        let mut first = way.client.connect(way.to(PORT)).await?;
        app::exchange(&mut first, "hello").await?;
        let connecting = (0..STREAMS).map(async |number| -> Result<TcpStream> {
            let mut stream = way.client.connect(way.to(PORT)).await?;
            let text = format!("stream {number}");
            assert_eq!(app::exchange(&mut stream, &text).await?, text);
            Ok(stream)
        });
        let mut streams = try_join_all(connecting).await?;
        assert_eq!(echo.peers().len(), STREAMS + 1);
        let again = streams.iter_mut().enumerate();
        try_join_all(again.map(async |(number, stream)| -> Result<()> {
            let text = format!("again {number}");
            assert_eq!(app::exchange(stream, &text).await?, text);
            Ok(())
        }))
        .await?;
        let connections = way.connections().await?;
        ensure!(
            (2..=STREAMS as u64 / 50).contains(&connections),
            "{connections}"
        );
        Ok(())
    });
}

/// Runs `test` from Envoy to ztun's pod, and the other way round.
#[track_caller]
fn each_way(test: &impl AsyncFn(&Way<'_>) -> Result<()>) {
    scenario(pod_and_envoy(), async |mesh| {
        for end in End::BOTH {
            let way = end.open(mesh, Family::V4).await?;
            let passed = test(&way).await;
            passed.with_context(|| format!("Envoy is the {end:?}; {:?}", way.envoy.tunnels()))?;
        }
        Ok(())
    });
}

/// Both directions at once: what comes back is compared with what went.
#[track_caller]
fn carries_much(end: End) {
    const BULK: Bulk = Bulk::new(1, 100 << 20);
    scenario(pod_and_envoy(), async |mesh| {
        let way = end.open(mesh, Family::V6).await?;
        let _echo = way.server.echo(PORT)?;
        let stream = way.client.connect(way.to(PORT)).await?;
        assert_eq!(BULK.swap(stream).await?, BULK.checksum());
        Ok(())
    });
}

/// What a server does after its words.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Finish,
    GoOn,
}

/// Serves words to each client; answers how each connection ended, as the server saw it.
fn speaks_first(
    server: &Pod,
    then: Then,
) -> io::Result<(mpsc::Receiver<Result<String, ErrorKind>>, App)> {
    let (ended, end) = mpsc::channel(1);
    let app = server.serve(PORT, move |mut stream: TcpStream, _| {
        let ended = ended.clone();
        async move {
            stream.write_all(WORDS).await?;
            if then == Then::Finish {
                stream.shutdown().await?;
            }
            let mut text = String::new();
            let read = stream.read_to_string(&mut text).await;
            // The test that waits for this has failed if nobody listens.
            let _ = ended.send(kind(read).map(|_| text)).await;
            Ok(())
        }
    })?;
    Ok((end, app))
}

/// Connects to a server that finishes first, and hears it out.
async fn hear_out(way: &Way<'_>) -> Result<TcpStream> {
    let mut stream = way.client.connect(way.to(PORT)).await?;
    let mut words = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut words)).await??;
    ensure!(words == WORDS, "{words:?}");
    Ok(stream)
}

/// Connects to a server that speaks, and resets the connection after the first words.
async fn hear_and_reset(way: &Way<'_>) -> Result<()> {
    let mut stream = way.client.connect(way.to(PORT)).await?;
    timeout(PATIENCE, stream.read_exact(&mut [0; WORDS.len()])).await??;
    Ok(app::reset(stream)?)
}

fn kind<T>(end: io::Result<T>) -> Result<T, ErrorKind> {
    end.map_err(|error| error.kind())
}
