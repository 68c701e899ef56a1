//! Whose turn it is to ask the CA: connections that wait come before everything else.

use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Requests in flight that nobody waits for: certificates of workloads that don't talk yet, and renewals.
const BACKGROUND: usize = 12;
/// Further ones, only for identities that a connection waits for.
const RESERVED: usize = 4;

/// Bounds the requests in flight over all identities: a restart asks for all of them at once, and
/// a CA that is slow with the most of them must not keep those waiting that are needed now.
#[derive(Debug)]
pub(super) struct Requests {
    background: Semaphore,
    reserved: Semaphore,
}

/// How many connections wait for an identity's certificate.
pub(super) type Waiting = watch::Sender<usize>;

/// Counts as one waiting connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a Waiting);

impl Default for Requests {
    fn default() -> Self {
        Self {
            background: Semaphore::new(BACKGROUND),
            reserved: Semaphore::new(RESERVED),
        }
    }
}

impl Requests {
    /// Waits for a turn; from the moment that a connection waits, too, in the shorter queue as well.
    pub(super) async fn turn(&self, waiting: &Waiting) -> Option<SemaphorePermit<'_>> {
        let reserved = async {
            somebody_waits(waiting).await;
            self.reserved.acquire().await
        };
        let permit = tokio::select! {
            biased;
            permit = self.background.acquire() => permit,
            permit = reserved => permit,
        };
        // Neither is ever closed.
        permit.ok()
    }
}

impl<'a> Waits<'a> {
    pub(super) fn on(waiting: &'a Waiting) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Returns at once if somebody waits already.
pub(super) async fn somebody_waits(waiting: &Waiting) {
    // An error would mean that the sender is gone, which is borrowed here.
    let _ = waiting.subscribe().wait_for(|count| *count > 0).await;
}
