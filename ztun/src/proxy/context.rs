//! The proxy of one node: its pods, its pool, its open connections, and its end.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    error::ProxyError,
    listen,
    pod::{PodListeners, ProxiedPod},
    pool::Pool,
    registry::{LocalPod, Registry},
    rejudge,
    settings::ProxySettings,
};
use crate::{
    cert::CertificateManager,
    mesh::{Mesh, PodName, Snapshot, Workload},
    observe::{ConnectionStatus, Connections, Metrics, metrics::Refusal, rate_limit::RateLimit},
};

/// Cheap to share; every method works from any thread.
#[derive(Debug)]
pub struct Proxy {
    pub(super) mesh: Arc<Mesh>,
    pub(super) certificates: Arc<CertificateManager>,
    pub(super) settings: ProxySettings,
    pub(super) pool: Arc<Pool>,
    pub(super) connections: Connections,
    pub(super) pods: Registry,
    pub(super) tasks: TaskTracker,
    pub(super) draining: CancellationToken,
    pub(super) refusals: RateLimit,
    runtime: Handle,
}

impl Proxy {
    /// Call it on the runtime that is to carry the traffic.
    pub fn new(
        mesh: Arc<Mesh>,
        certificates: Arc<CertificateManager>,
        settings: ProxySettings,
        metrics: Metrics,
    ) -> Arc<Self> {
        let proxy = Arc::new(Self {
            pool: Pool::new(Arc::clone(&certificates), settings),
            mesh,
            certificates,
            settings,
            connections: Connections::new(metrics),
            pods: Registry::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            refusals: RateLimit::default(),
            runtime: Handle::current(),
        });
        tokio::spawn(rejudge::on_changes(Arc::downgrade(&proxy)));
        tokio::spawn(rejudge::on_changed_trust(Arc::downgrade(&proxy)));
        proxy
    }

    /// Serves a pod until [`Self::remove_pod`]; replaces one of the same name.
    pub fn add_pod(self: &Arc<Self>, pod: ProxiedPod, listeners: PodListeners) -> io::Result<()> {
        let name = pod.name.clone();
        let local = Arc::new(LocalPod::new(
            pod,
            &self.settings,
            self.draining.child_token(),
            Arc::clone(&self.certificates),
        ));
        if let Some(workload) = self.mesh.snapshot().workload_by_pod(&name) {
            local.keep_certificate(&workload.identity);
        }
        let runtime = self.runtime.enter();
        if let Err(error) = listen::serve(self, &local, listeners) {
            local.remove();
            return Err(error);
        }
        drop(runtime);
        if let Some(former) = self.pods.insert(local) {
            former.remove();
        }
        Ok(())
    }

    /// Serves a pod at more listeners, beside those that it has. If it isn't served they are closed.
    pub fn add_listeners(
        self: &Arc<Self>,
        name: &PodName,
        listeners: PodListeners,
    ) -> io::Result<()> {
        let Some(local) = self.pods.get(name) else {
            return Ok(());
        };
        let _runtime = self.runtime.enter();
        listen::serve(self, &local, listeners)
    }

    /// Gives the pod's new tunnels new connections: those that it has may be from an address that it
    /// lost. What is open goes on.
    pub fn renew_tunnel_connections(&self, name: &PodName) {
        self.pool.forget_pod(name);
    }

    /// Stops serving a pod and resets its connections. False if it wasn't served.
    pub fn remove_pod(&self, name: &PodName) -> bool {
        let Some(pod) = self.pods.remove(name) else {
            return false;
        };
        pod.remove();
        self.pool.forget_pod(name);
        for connection in self.connections.all() {
            if connection.flow().pod == *name {
                connection.close(ProxyError::PodRemoved);
            }
        }
        true
    }

    /// Every open connection.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.connections.status()
    }

    /// The sockets at which a pod is served, by descriptors of their own.
    pub fn clone_listeners(&self, name: &PodName) -> io::Result<PodListeners> {
        match self.pods.get(name) {
            Some(local) => local.clone_listeners(),
            None => Ok(PodListeners::default()),
        }
    }

    /// Takes no new connection and tells peers so.
    ///
    /// The listeners are closed: a successor that has them takes what waits in their queues, and
    /// without one the kernel refuses.
    pub fn stop_accepting(&self) {
        self.draining.cancel();
        for pod in self.pods.all() {
            pod.close_listeners();
        }
        self.tasks.close();
    }

    /// Takes no new connection, waits for the open ones, and resets those that are still open after
    /// `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.stop_accepting();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_ok() {
            return;
        }
        let open = self.connections.all();
        tracing::info!(
            connections = open.len(),
            ?limit,
            "drain limit reached, resetting what is open"
        );
        for connection in open {
            connection.close(ProxyError::ShuttingDown);
        }
        for pod in self.pods.all() {
            pod.gone.cancel();
        }
        // Resets need only be sent; set-ups that still wait for a peer are left to the process's end.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
    }

    /// A place for one more open connection of `pod`, unless it has too many.
    pub(super) fn place(&self, pod: &LocalPod, client: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&pod.connections).try_acquire_owned();
        if place.is_err() {
            let detail = "the pod has as many connections as limits.connections allows";
            self.refused(pod, client, Refusal::TooManyConnections, detail);
        }
        place.ok()
    }

    /// Counts what is refused before policy could judge it. Peers can provoke it without limit, so
    /// it is logged now and then.
    pub(super) fn refused(
        &self,
        pod: &LocalPod,
        client: SocketAddr,
        refusal: Refusal,
        detail: &str,
    ) {
        self.connections.metrics().refused(refusal);
        if let Some(suppressed) = self.refusals.admit(Instant::now()) {
            tracing::warn!(pod = %pod.pod.name, %client, reason = detail, suppressed, "refused");
        }
    }

    /// The mesh as it is now, and the pod's workload in it. Waited for: late state must not be
    /// mistaken for a pod without identity.
    pub(super) async fn workload_of(
        &self,
        pod: &LocalPod,
    ) -> Result<(Arc<Snapshot>, Arc<Workload>), ProxyError> {
        let waited = self.settings.timeouts.mesh_wait;
        let name = &pod.pod.name;
        let started = Instant::now();
        let mut versions = self.mesh.versions();
        loop {
            versions.borrow_and_update();
            let snapshot = self.mesh.snapshot();
            if let Some(workload) = snapshot.workload_by_pod(name).cloned() {
                pod.keep_certificate(&workload.identity);
                return Ok((snapshot, workload));
            }
            let rest = waited.saturating_sub(started.elapsed());
            if !matches!(
                tokio::time::timeout(rest, versions.changed()).await,
                Ok(Ok(()))
            ) {
                return Err(ProxyError::UnknownPod {
                    pod: name.clone(),
                    waited,
                });
            }
        }
    }
}
