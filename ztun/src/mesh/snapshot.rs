//! One immutable view of the mesh, and the place where the newest one is found.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rand::Rng;
use tokio::sync::watch;

use super::{
    policy::{Connection, Decision},
    route::Route,
    workload::{PodName, Workload, WorkloadUid},
};

/// Everything that the proxy needs to decide, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {}

impl Snapshot {
    pub fn workload(&self, _uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        None
    }

    pub fn workload_by_pod(&self, _pod: &PodName) -> Option<&Arc<Workload>> {
        None
    }

    pub fn workload_by_address(&self, _address: IpAddr) -> Option<&Arc<Workload>> {
        None
    }

    /// Chooses where a connection of `source` to `destination` goes.
    pub fn route(
        &self,
        _source: &Workload,
        destination: SocketAddr,
        _random: &mut impl Rng,
    ) -> Route {
        Route::Passthrough {
            address: destination,
        }
    }

    /// Whether `connection` may enter its destination.
    pub fn authorize(&self, _connection: &Connection<'_>) -> Decision {
        Decision::Allow
    }
}

/// The newest snapshot, and a signal when it changes. Readers never wait.
#[derive(Debug)]
pub struct Mesh {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl Mesh {
    /// A mesh of which nothing is known yet: [`Mesh::synced`] is false until the first publish.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Snapshot::default()),
            version: watch::Sender::new(0),
        })
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.version.send_modify(|version| *version += 1);
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub fn synced(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Changes once for each published snapshot; 0 is "nothing published yet".
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
