//! Waiting for what happens in its own time.

use std::{fmt, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

const INTERVAL: Duration = Duration::from_millis(10);
/// Long enough for a busy machine: only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Repeats `check` until it is true, or gives up after [`PATIENCE`].
pub async fn until(what: impl fmt::Display, check: impl AsyncFnMut() -> bool) -> Result<()> {
    until_within(PATIENCE, what, check).await
}

/// Repeats `check` until it is true, or gives up after `limit`.
pub async fn until_within(
    limit: Duration,
    what: impl fmt::Display,
    mut check: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !check().await {
        if Instant::now() > deadline {
            bail!("waited {limit:?} in vain: {what}");
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}
