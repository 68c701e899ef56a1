//! Requests from pods, by a real client.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ztun_tests::Pod;

/// What curl got, or why it got nothing.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<String, String>,
    pub took: Duration,
}

/// Requests `/` of an HTTP server as a process in `pod`.
pub async fn get(pod: &Pod, server: SocketAddr) -> Result<Outcome> {
    let start = Instant::now();
    let output = pod
        .command("curl")?
        .args(["--silent", "--show-error", "--fail", "--max-time", "15"])
        .arg(format!("http://{server}/"))
        .output()
        .await
        .context("run curl")?;
    let took = start.elapsed();
    let result = if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    Ok(Outcome { result, took })
}
