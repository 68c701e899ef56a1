//! Where an outbound connection goes: the decision, without the connecting.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::{Rng, seq::IteratorRandom};

use super::{
    service::{Backend, RoutedService, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// Draws that may hit an endpoint whose workload isn't known yet, before all are looked at.
const DRAWS: usize = 4;

/// What to do with one outbound connection.
#[derive(Clone, Debug)]
pub enum Route {
    /// To a known workload: same node, HBONE or plaintext is told by the workload itself.
    Workload {
        workload: Arc<Workload>,
        /// The workload's own address and port (the service port already translated).
        address: SocketAddr,
        /// The service that the app asked for, if it asked for one.
        service: Option<Arc<Service>>,
    },
    /// Not of this mesh: relayed as it is.
    Passthrough { address: SocketAddr },
    /// A service that can't serve this connection now: the app is reset at once.
    Unavailable { reason: String },
}

impl Snapshot {
    /// Chooses where a connection of `source` to `destination` goes.
    ///
    /// An IPv4-mapped destination counts as IPv4. Every ready endpoint of a service is equally
    /// likely; locality has no say yet, so `source` hasn't either.
    pub fn route(
        &self,
        _source: &Workload,
        destination: SocketAddr,
        random: &mut impl Rng,
    ) -> Route {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if let Some(service) = self.routed_service(destination.ip()) {
            return self.route_to_service(service, destination, random);
        }
        match self.workload_by_address(destination.ip()) {
            Some(workload) => Route::Workload {
                workload: Arc::clone(workload),
                address: destination,
                service: None,
            },
            None => Route::Passthrough {
                address: destination,
            },
        }
    }

    fn route_to_service(
        &self,
        routed: &RoutedService,
        destination: SocketAddr,
        random: &mut impl Rng,
    ) -> Route {
        let service = &routed.service;
        let Some(backends) = routed.backends(destination.port()) else {
            return Route::Unavailable {
                reason: format!(
                    "service {} has no port {} (its ports: {:?})",
                    service.key,
                    destination.port(),
                    service.ports
                ),
            };
        };
        match self.choose(backends, destination.ip(), random) {
            Some((workload, address)) => Route::Workload {
                workload: Arc::clone(workload),
                address,
                service: Some(Arc::clone(service)),
            },
            None => Route::Unavailable {
                reason: format!(
                    "service {} has no ready endpoint for port {} ({} known, none ready): are its pods running and ready?",
                    service.key,
                    destination.port(),
                    service.endpoints.len(),
                ),
            },
        }
    }

    /// A uniform choice: a draw that can't be used is drawn again, which keeps the rest equally likely.
    fn choose(
        &self,
        backends: &[Backend],
        vip: IpAddr,
        random: &mut impl Rng,
    ) -> Option<(&Arc<Workload>, SocketAddr)> {
        if backends.is_empty() {
            return None;
        }
        let drawn = (0..DRAWS).find_map(|_| {
            let drawn = random.random_range(0..backends.len());
            self.reach(&backends[drawn], vip)
        });
        drawn.or_else(|| {
            let reachable = backends
                .iter()
                .filter_map(|backend| self.reach(backend, vip));
            reachable.choose(random)
        })
    }

    fn reach(&self, backend: &Backend, vip: IpAddr) -> Option<(&Arc<Workload>, SocketAddr)> {
        let workload = self.workload(&backend.workload)?;
        let address = workload.address_like(vip)?;
        Some((workload, SocketAddr::new(address, backend.port)))
    }
}
