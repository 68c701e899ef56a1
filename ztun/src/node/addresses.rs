//! Following the addresses that enrolled pods gain and lose.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::pods::run_blocking;
use crate::{
    mesh::PodName,
    proxy::Proxy,
    redirect::{AddressFollower, FollowError, Followed, Redirect},
};

/// Between two looks at a pod's addresses: a burst of changes is one.
const REST: Duration = Duration::from_millis(50);
/// When what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The enrolled pods whose addresses are followed, each by a task.
#[derive(Debug)]
pub struct Followers {
    redirect: Arc<Redirect>,
    proxy: Arc<Proxy>,
    tasks: Mutex<BTreeMap<PodName, AbortOnDropHandle<()>>>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Capture(FollowError),
    #[error("serve the listeners of a new address family: {0}")]
    Serve(io::Error),
}

impl Followers {
    pub fn new(redirect: Arc<Redirect>, proxy: Arc<Proxy>) -> Self {
        Self {
            redirect,
            proxy,
            tasks: Mutex::default(),
        }
    }

    /// Follows the pod's addresses instead of what was followed under its name. The proxy must
    /// serve the pod already.
    pub fn follow(&self, pod: &PodName, follower: AddressFollower) {
        let (redirect, proxy) = (self.redirect.clone(), self.proxy.clone());
        let task = tokio::spawn(follow(pod.clone(), follower, redirect, proxy));
        self.tasks()
            .insert(pod.clone(), AbortOnDropHandle::new(task));
    }

    pub fn stop(&self, pod: &PodName) {
        self.tasks().remove(pod);
    }

    pub fn stop_all(&self) {
        self.tasks().clear();
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<PodName, AbortOnDropHandle<()>>> {
        // Nothing panics while holding it.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(
    pod: PodName,
    mut follower: AddressFollower,
    redirect: Arc<Redirect>,
    proxy: Arc<Proxy>,
) {
    let mut is_behind = false;
    loop {
        let changed = if is_behind {
            timeout(RETRY, follower.changed()).await.unwrap_or(Ok(()))
        } else {
            follower.changed().await
        };
        if let Err(error) = changed {
            tracing::warn!(%pod, %error, "cannot hear of the pod's addresses: looking now and then");
            sleep(RETRY).await;
        }
        let redirect = redirect.clone();
        let result;
        (follower, result) = run_blocking(move || {
            let result = redirect.catch_up(&mut follower);
            (follower, result)
        })
        .await;
        let result = result
            .map_err(Error::Capture)
            .and_then(|followed| serve(&pod, followed, &proxy).map_err(Error::Serve));
        if let Err(Error::Capture(FollowError::HandedOver)) = result {
            return;
        }
        let was_behind = mem::replace(&mut is_behind, result.is_err());
        if let Err(error) = result
            && !was_behind
        {
            tracing::error!(%pod, %error, "cannot follow the pod's addresses; it is tried again, and the new ones stay closed");
        }
        sleep(REST).await;
    }
}

/// Tells of what changed, and serves the families that are new.
fn serve(pod: &PodName, followed: Followed, proxy: &Arc<Proxy>) -> io::Result<()> {
    let Followed {
        gained,
        lost,
        listeners,
        left_out,
    } = followed;
    if !lost.is_empty() {
        proxy.renew_tunnel_connections(pod);
    }
    if !gained.is_empty() || !lost.is_empty() {
        tracing::info!(%pod, ?gained, ?lost, "the pod's addresses changed");
    }
    if left_out > 0 {
        tracing::error!(%pod, left_out, "the pod has more addresses than capture takes: connections to the others fail");
    }
    proxy.add_listeners(pod, listeners)
}
