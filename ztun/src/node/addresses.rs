//! Following the addresses that enrolled pods gain and lose.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
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
    tasks: Mutex<BTreeMap<PodName, Task>>,
}

#[derive(Debug)]
struct Task {
    requests: mpsc::Sender<Request>,
    _running: AbortOnDropHandle<()>,
}

/// To look now; answered when that is done.
type Request = oneshot::Sender<()>;

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
        let (requests, requested) = mpsc::channel(1);
        let following = follow(pod.clone(), follower, requested, redirect, proxy);
        let task = Task {
            requests,
            _running: AbortOnDropHandle::new(tokio::spawn(following)),
        };
        self.tasks().insert(pod.clone(), task);
    }

    /// Makes the pod's capture true to its addresses now, and with it what is missing of rules,
    /// routes, sysctls and listeners. What goes wrong is logged.
    pub async fn catch_up(&self, pod: &PodName) {
        let requests = self.tasks().get(pod).map(|task| task.requests.clone());
        let (request, done) = oneshot::channel();
        if let Some(requests) = requests
            && requests.send(request).await.is_ok()
        {
            // Dropped where the pod is followed no longer.
            let _ = done.await;
        }
    }

    pub fn stop(&self, pod: &PodName) {
        self.tasks().remove(pod);
    }

    pub fn stop_all(&self) {
        self.tasks().clear();
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<PodName, Task>> {
        // Nothing panics while holding it.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow(
    pod: PodName,
    mut follower: AddressFollower,
    mut requests: mpsc::Receiver<Request>,
    redirect: Arc<Redirect>,
    proxy: Arc<Proxy>,
) {
    let mut is_behind = false;
    loop {
        let retry = if is_behind { RETRY } else { Duration::MAX };
        let (changed, request) = tokio::select! {
            changed = timeout(retry, follower.changed()) => (changed.unwrap_or(Ok(())), None),
            Some(request) = requests.recv() => (Ok(()), Some(request)),
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
        if let Some(request) = request {
            // Whoever asked may be gone.
            let _ = request.send(());
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
