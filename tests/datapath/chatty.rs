//! Many tiny frames beside a stream that nobody reads, in one tunnel connection.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use ztun_tests::{Family, scenario, wait::PATIENCE};

use crate::{PORT, two_nodes};

const SLOW_PORT: u16 = 8081;
/// More than every buffer on the way holds.
const UNREAD: usize = 32 << 20;
const BYTES: usize = 256 << 10;

/// h2 ends a connection whose peer sends too many tiny frames, and its other streams with it
/// (RUSTSEC-2026-0258).
#[test]
fn single_bytes_beside_a_slow_reader_harm_neither() {
    scenario(two_nodes(), async |mesh| {
        let (client, far) = (mesh.pod("shop/client"), mesh.pod("shop/far"));
        let (go_on, stalled) = tokio::sync::watch::channel(());
        let _slow = far.serve(SLOW_PORT, move |mut stream: TcpStream, _| {
            let mut stalled = stalled.clone();
            async move {
                // An error means that the sender is gone, and the test over.
                let _ = stalled.changed().await;
                let mut received = Vec::new();
                stream.read_to_end(&mut received).await?;
                stream
                    .write_all(received.len().to_string().as_bytes())
                    .await?;
                stream.shutdown().await
            }
        })?;
        let _chatty = far.serve(PORT, |stream: TcpStream, _| async move {
            stream.set_nodelay(true)?;
            let (read, write) = stream.into_split();
            let (sent, count) = tokio::join!(send_then_finish(write), count(read));
            sent?;
            assert_eq!(count?, BYTES);
            Ok(())
        })?;

        let slow = client.connect(far.at(Family::V4, SLOW_PORT)).await?;
        slow.set_nodelay(true)?;
        let (mut answer, mut unread) = slow.into_split();
        let filling = tokio::spawn(async move {
            send_single_bytes(&mut unread).await?;
            unread.write_all(&vec![0; UNREAD]).await?;
            unread.shutdown().await
        });
        let chatty = client.connect(far.at(Family::V4, PORT)).await?;
        chatty.set_nodelay(true)?;
        let (read, write) = chatty.into_split();
        let (sent, received) = tokio::join!(send_then_finish(write), count(read));
        sent?;
        assert_eq!(received?, BYTES);

        assert!(!filling.is_finished(), "nothing was held back");
        go_on.send(())?;
        filling.await??;
        let mut total = String::new();
        timeout(PATIENCE, answer.read_to_string(&mut total)).await??;
        assert_eq!(total, (BYTES + UNREAD).to_string());
        Ok(())
    });
}

async fn send_then_finish(mut stream: impl AsyncWriteExt + Unpin) -> std::io::Result<()> {
    send_single_bytes(&mut stream).await?;
    stream.shutdown().await
}

async fn send_single_bytes(stream: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    for number in 0..BYTES {
        stream.write_all(b".").await?;
        // Lets what is buffered leave as frames of its own.
        if number % 4096 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

async fn count(mut stream: impl AsyncReadExt + Unpin) -> Result<usize, std::io::Error> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await
}
