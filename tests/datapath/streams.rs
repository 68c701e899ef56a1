//! Protocols that don't wait for the client, half-closed connections, tiny and large writes, idle times.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use ztun_tests::{Family, app, scenario, wait::PATIENCE};

use crate::{PORT, two_nodes};

const SERVERS: [&str; 2] = ["shop/near", "shop/far"];

#[test]
fn a_server_may_speak_first() {
    scenario(two_nodes(), async |mesh| {
        for server in SERVERS {
            let server = mesh.pod(server);
            let _greeting = server.greet(PORT, "220 ready\r\n")?;
            let to = server.at(Family::V4, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            let mut greeting = [0; 11];
            timeout(PATIENCE, stream.read_exact(&mut greeting)).await??;
            assert_eq!(&greeting, b"220 ready\r\n");
            assert_eq!(app::exchange(&mut stream, "hello").await?, "hello");
        }
        Ok(())
    });
}

#[test]
fn a_client_that_has_finished_sending_still_receives() {
    scenario(two_nodes(), async |mesh| {
        for server in SERVERS {
            let server = mesh.pod(server);
            let _count = server.serve(PORT, count_then_answer)?;
            let to = server.at(Family::V6, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            stream.write_all(b"twelve bytes").await?;
            stream.shutdown().await?;
            let mut answer = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
            assert_eq!(answer, "12");
        }
        Ok(())
    });
}

#[test]
fn a_server_that_has_finished_sending_still_receives() {
    scenario(two_nodes(), async |mesh| {
        for server in SERVERS {
            let (done, mut received) = tokio::sync::mpsc::channel(1);
            let server = mesh.pod(server);
            let _close_first = server.serve(PORT, move |mut stream: TcpStream, _| {
                let done = done.clone();
                async move {
                    stream.shutdown().await?;
                    let mut text = String::new();
                    stream.read_to_string(&mut text).await?;
                    // The test that waits for this has failed if nobody listens.
                    let _ = done.send(text).await;
                    Ok(())
                }
            })?;
            let to = server.at(Family::V4, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            let mut nothing = Vec::new();
            timeout(PATIENCE, stream.read_to_end(&mut nothing)).await??;
            assert_eq!(nothing, b"");
            stream.write_all(b"still sending").await?;
            stream.shutdown().await?;
            let text = timeout(PATIENCE, received.recv()).await?;
            assert_eq!(text.as_deref(), Some("still sending"));
        }
        Ok(())
    });
}

#[test]
fn single_bytes_arrive_one_by_one() {
    scenario(two_nodes(), async |mesh| {
        for server in SERVERS {
            let server = mesh.pod(server);
            let _echo = server.echo(PORT)?;
            let to = server.at(Family::V4, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            stream.set_nodelay(true)?;
            for byte in "every byte is answered before the next is sent".chars() {
                let byte = byte.to_string();
                assert_eq!(app::exchange(&mut stream, &byte).await?, byte);
            }
        }
        Ok(())
    });
}

#[test]
fn an_idle_connection_stays() {
    scenario(two_nodes(), async |mesh| {
        let far = mesh.pod("shop/far");
        let _echo = far.echo(PORT)?;
        let to = far.at(Family::V4, PORT);
        let mut stream = mesh.pod("shop/client").connect(to).await?;
        assert_eq!(app::exchange(&mut stream, "before").await?, "before");
        sleep(Duration::from_secs(15)).await;
        assert_eq!(app::exchange(&mut stream, "after").await?, "after");
        Ok(())
    });
}

async fn count_then_answer(mut stream: TcpStream, _: std::net::SocketAddr) -> std::io::Result<()> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    stream
        .write_all(received.len().to_string().as_bytes())
        .await?;
    stream.shutdown().await
}
