//! The pods that this node's proxy serves.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    handshakes::Handshakes,
    pod::{PodListeners, ProxiedPod},
    settings::ProxySettings,
};
use crate::{
    cert::CertificateManager,
    mesh::{Identity, PodName, Workload},
};

#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<PodName, Arc<LocalPod>>>);

/// An enrolled pod while it is served.
#[derive(Debug)]
pub struct LocalPod {
    pub pod: ProxiedPod,
    pub handshakes: Arc<Handshakes>,
    /// What it may have open.
    pub connections: Arc<Semaphore>,
    /// Cancelled when no new connection is to be taken.
    pub stop: CancellationToken,
    /// Cancelled when the pod is gone.
    pub gone: CancellationToken,
    certificates: Arc<CertificateManager>,
    identity: Mutex<Option<Identity>>,
    /// Its listening sockets once more, for a successor.
    listeners: Mutex<PodListeners>,
}

impl Registry {
    /// The pod that it replaces, if it was known already.
    pub fn insert(&self, pod: Arc<LocalPod>) -> Option<Arc<LocalPod>> {
        self.pods().insert(pod.pod.name.clone(), pod)
    }

    pub fn remove(&self, name: &PodName) -> Option<Arc<LocalPod>> {
        self.pods().remove(name)
    }

    pub fn get(&self, name: &PodName) -> Option<Arc<LocalPod>> {
        self.pods().get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<LocalPod>> {
        self.pods().values().cloned().collect()
    }

    /// The pod that is `workload` at `address`. Both, because a name may be used again before
    /// the mesh state says so.
    pub fn find(&self, workload: &Workload, address: IpAddr) -> Option<Arc<LocalPod>> {
        let pods = self.pods();
        let pod = pods.get(&workload.pod)?;
        let addresses = &pod.pod.addresses;
        addresses.contains(address).then(|| Arc::clone(pod))
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<PodName, Arc<LocalPod>>> {
        // No code that can panic leaves the map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalPod {
    pub fn new(
        pod: ProxiedPod,
        settings: &ProxySettings,
        stop: CancellationToken,
        certificates: Arc<CertificateManager>,
    ) -> Self {
        Self {
            pod,
            handshakes: Handshakes::new(settings.pending_handshakes),
            connections: Arc::new(Semaphore::new(settings.connections)),
            stop,
            gone: CancellationToken::new(),
            certificates,
            identity: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    /// Keeps listeners by descriptors of its own. Those that nobody accepts from have to be closed.
    pub fn keep_listeners(&self, listeners: &PodListeners) -> io::Result<()> {
        let more = listeners.try_clone()?;
        self.listeners().append(more);
        Ok(())
    }

    pub fn clone_listeners(&self) -> io::Result<PodListeners> {
        self.listeners().try_clone()
    }

    /// Takes no new connection: the kernel refuses them, unless somebody else has the listeners.
    pub fn close_listeners(&self) {
        self.stop.cancel();
        *self.listeners() = PodListeners::default();
    }

    fn listeners(&self) -> MutexGuard<'_, PodListeners> {
        // Nothing panics while holding it.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a certificate kept for the identity that the mesh state gives this pod.
    pub fn keep_certificate(&self, identity: &Identity) {
        let mut kept = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.is_cancelled() || kept.as_ref() == Some(identity) {
            return;
        }
        self.certificates.retain(identity);
        if let Some(former) = kept.replace(identity.clone()) {
            self.certificates.release(&former);
        }
    }

    /// Takes no new connection, ends its own, lets go of its certificate.
    pub fn remove(&self) {
        self.close_listeners();
        self.gone.cancel();
        let mut kept = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = kept.take() {
            self.certificates.release(&identity);
        }
    }
}
