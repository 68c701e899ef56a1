//! Finds peers that are gone: a PING now and then, and an answer in time.

use std::time::Duration;

use h2::{Ping, PingPong};

/// The peer's values.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(20);

/// Resolves, with the reason, when the peer does not answer any more.
pub async fn silence(ping_pong: Option<PingPong>) -> String {
    // h2 hands it out once, and each connection asks once.
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        match tokio::time::timeout(TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no answer to PING within {TIMEOUT:?}"),
        }
    }
}
