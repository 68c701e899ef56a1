//! Finds peers that are gone: a PING now and then, and an answer in time.

use std::{sync::Arc, time::Duration};

use h2::{Ping, PingPong};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// The peer's values.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(20);

/// A request without an answer for so long makes it worth a PING.
const DOUBT: Duration = Duration::from_secs(1);
/// What a PING may take while a request waits. Streams that are open are given [`TIMEOUT`]: what
/// is under way before the PING may take that long.
const DOUBT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the peer of one connection lives.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: Notify,
    /// How many PINGs were answered.
    answers: watch::Sender<u64>,
}

impl Pulse {
    /// For a request that waits: resolves, with the reason, when the peer answers nothing at all.
    pub async fn lost(&self) -> String {
        loop {
            sleep(DOUBT).await;
            let mut answers = self.0.answers.subscribe();
            self.0.asked.notify_one();
            if timeout(DOUBT_TIMEOUT, answers.changed()).await.is_err() {
                return format!("no answer to PING within {DOUBT_TIMEOUT:?}");
            }
        }
    }
}

/// Resolves, with the reason, when the peer does not answer any more.
pub async fn silence(ping_pong: Option<PingPong>, pulse: &Pulse) -> String {
    // h2 hands it out once, and each connection asks once.
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = pulse.0.asked.notified() => {}
        }
        match timeout(TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => pulse.0.answers.send_modify(|answers| *answers += 1),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no answer to PING within {TIMEOUT:?}"),
        }
    }
}
