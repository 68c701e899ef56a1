//! Where an outbound connection goes: the decision, without the connecting.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::{Rng, seq::IteratorRandom};

use super::{
    service::{Backends, RoutedService, Service},
    snapshot::Snapshot,
    workload::{Workload, WorkloadUid},
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
        self.route_to_address(destination)
    }

    /// Every route that [`Self::route`] may choose for a connection to `destination`.
    pub fn routes(&self, destination: SocketAddr) -> Vec<Route> {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        let Some(routed) = self.routed_service(destination.ip()) else {
            return vec![self.route_to_address(destination)];
        };
        let backends = match backends(routed, destination.port()) {
            Ok(backends) => backends,
            Err(unavailable) => return vec![unavailable],
        };
        let reachable = backends
            .iter()
            .filter_map(|(uid, port)| self.reach(uid, *port, destination.ip()));
        let routes: Vec<Route> = reachable
            .map(|reached| to_endpoint(reached, &routed.service))
            .collect();
        if routes.is_empty() {
            return vec![none_ready(&routed.service, destination.port())];
        }
        routes
    }

    fn route_to_address(&self, destination: SocketAddr) -> Route {
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
        let backends = match backends(routed, destination.port()) {
            Ok(backends) => backends,
            Err(unavailable) => return unavailable,
        };
        match self.choose(backends, destination.ip(), random) {
            Some(reached) => to_endpoint(reached, &routed.service),
            None => none_ready(&routed.service, destination.port()),
        }
    }

    /// A uniform choice: a draw that can't be used is drawn again, which keeps the rest equally likely.
    fn choose(
        &self,
        backends: &Backends,
        vip: IpAddr,
        random: &mut impl Rng,
    ) -> Option<(&Arc<Workload>, SocketAddr)> {
        if backends.is_empty() {
            return None;
        }
        let drawn = (0..DRAWS).find_map(|_| {
            let (uid, port) = backends.nth(random.random_range(0..backends.len()))?;
            self.reach(uid, *port, vip)
        });
        drawn.or_else(|| {
            let reachable = backends
                .iter()
                .filter_map(|(uid, port)| self.reach(uid, *port, vip));
            reachable.choose(random)
        })
    }

    fn reach(
        &self,
        uid: &WorkloadUid,
        port: u16,
        vip: IpAddr,
    ) -> Option<(&Arc<Workload>, SocketAddr)> {
        let workload = self.workload(uid)?;
        let address = workload.address_like(vip)?;
        Some((workload, SocketAddr::new(address, port)))
    }
}

fn backends(routed: &RoutedService, port: u16) -> Result<&Backends, Route> {
    let service = &routed.service;
    routed.backends(port).ok_or_else(|| Route::Unavailable {
        reason: format!(
            "service {} has no port {port} (its ports: {:?})",
            service.key, service.ports
        ),
    })
}

fn to_endpoint((workload, address): (&Arc<Workload>, SocketAddr), service: &Arc<Service>) -> Route {
    Route::Workload {
        workload: Arc::clone(workload),
        address,
        service: Some(Arc::clone(service)),
    }
}

fn none_ready(service: &Service, port: u16) -> Route {
    Route::Unavailable {
        reason: format!(
            "service {} has no ready endpoint for port {port} ({} known, none ready): are its pods running and ready?",
            service.key,
            service.endpoints.len(),
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::mesh::fixture::{arc, ip, service, workload};

    fn route(snapshot: &Snapshot, destination: &str) -> Route {
        let source = workload("client", &["10.9.9.9"]);
        let mut random = SmallRng::seed_from_u64(7);
        snapshot.route(&source, destination.parse().unwrap(), &mut random)
    }

    fn workload_address(route: &Route) -> SocketAddr {
        match route {
            Route::Workload { address, .. } => *address,
            other => panic!("not routed to a workload: {other:?}"),
        }
    }

    fn reason(route: Route) -> String {
        match route {
            Route::Unavailable { reason } => reason,
            other => panic!("not unavailable: {other:?}"),
        }
    }

    fn dual_stack() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("a", &["10.0.0.1", "fd00::1"])));
        snapshot.insert_workload(arc(workload("six", &["fd00::2"])));
        snapshot.insert_workload(arc(workload("four", &["10.0.0.4"])));
        snapshot.insert_service(arc(service(
            "both",
            &["10.1.0.1", "fd01::1"],
            &[("a", true)],
        )));
        snapshot.insert_service(arc(service("to-six", &["10.1.0.2"], &[("six", true)])));
        snapshot.insert_service(arc(service("to-four", &["fd01::4"], &[("four", true)])));
        snapshot
    }

    #[test]
    fn a_service_port_becomes_the_endpoints_port() {
        let route = route(&dual_stack(), "10.1.0.1:80");
        assert_eq!(workload_address(&route).to_string(), "10.0.0.1:8080");
        let Route::Workload { service, .. } = route else {
            unreachable!()
        };
        assert_eq!(service.unwrap().key.to_string(), "foo/both");
    }

    #[test]
    fn an_endpoint_is_reached_by_the_vips_family_where_it_has_one() {
        let snapshot = dual_stack();
        for (vip, address) in [
            ("[fd01::1]:80", "[fd00::1]:8080"),
            ("[::ffff:10.1.0.1]:80", "10.0.0.1:8080"),
            ("10.1.0.2:80", "[fd00::2]:8080"),
            ("[fd01::4]:80", "10.0.0.4:8080"),
        ] {
            assert_eq!(
                workload_address(&route(&snapshot, vip)).to_string(),
                address,
                "{vip}"
            );
        }
    }

    #[test]
    fn a_workloads_own_address_keeps_its_port() {
        let snapshot = dual_stack();
        for (destination, address) in [
            ("10.0.0.1:9999", "10.0.0.1:9999"),
            ("[::ffff:10.0.0.1]:9999", "10.0.0.1:9999"),
            ("[fd00::1]:9999", "[fd00::1]:9999"),
        ] {
            let route = route(&snapshot, destination);
            assert_eq!(workload_address(&route).to_string(), address);
            assert!(matches!(route, Route::Workload { service: None, .. }));
        }
    }

    #[test]
    fn what_the_mesh_does_not_know_passes_through_in_its_own_family() {
        for (destination, expected) in [
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            let Route::Passthrough { address } = route(&dual_stack(), destination) else {
                panic!("{destination} did not pass through");
            };
            assert_eq!(address.to_string(), expected);
        }
    }

    #[test]
    fn a_port_that_the_service_does_not_have_is_unavailable() {
        let reason = reason(route(&dual_stack(), "10.1.0.1:81"));
        assert!(reason.contains("foo/both has no port 81"), "{reason}");
        assert!(reason.contains("[80]"), "{reason}");
    }

    #[test]
    fn a_service_without_ready_endpoints_is_unavailable() {
        let mut snapshot = dual_stack();
        snapshot.insert_service(arc(service("down", &["10.1.0.9"], &[("a", false)])));
        snapshot.insert_service(arc(service("gone", &["10.1.0.8"], &[("nobody", true)])));
        for vip in ["10.1.0.9:80", "10.1.0.8:80"] {
            let reason = reason(route(&snapshot, vip));
            assert!(reason.contains("no ready endpoint for port 80"), "{reason}");
        }
    }

    #[test]
    fn all_routes_are_those_that_can_be_chosen() {
        let mut snapshot = dual_stack();
        snapshot.insert_service(arc(service(
            "several",
            &["10.1.0.5"],
            &[("a", true), ("six", true), ("four", false), ("gone", true)],
        )));
        let addresses = |destination: &str| -> Vec<String> {
            let routes = snapshot.routes(destination.parse().unwrap());
            let addresses = routes.iter().map(|route| match route {
                Route::Workload { address, .. } | Route::Passthrough { address } => {
                    address.to_string()
                }
                Route::Unavailable { reason } => reason.clone(),
            });
            addresses.collect()
        };
        assert_eq!(
            addresses("10.1.0.5:80"),
            ["10.0.0.1:8080", "[fd00::2]:8080"]
        );
        assert_eq!(addresses("10.0.0.4:9"), ["10.0.0.4:9"]);
        assert_eq!(addresses("[::ffff:192.0.2.1]:9"), ["192.0.2.1:9"]);
        assert!(addresses("10.1.0.5:81")[0].contains("has no port 81"));
    }

    #[test]
    fn endpoints_are_equally_likely_also_among_many_that_are_not_known() {
        let mut snapshot = Snapshot::default();
        let names: Vec<String> = (0..40).map(|index| format!("w{index}")).collect();
        for (index, name) in names.iter().take(4).enumerate() {
            snapshot.insert_workload(arc(workload(name, &[&format!("10.0.0.{index}")])));
        }
        let endpoints: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
        snapshot.insert_service(arc(service("s", &["10.1.0.1"], &endpoints)));
        let source = workload("client", &[]);
        let mut random = SmallRng::seed_from_u64(1);
        let mut hits: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for _ in 0..4000 {
            let route = snapshot.route(&source, "10.1.0.1:80".parse().unwrap(), &mut random);
            *hits.entry(workload_address(&route).ip()).or_default() += 1;
        }
        assert_eq!(hits.len(), 4, "{hits:?}");
        // 1000 each; five standard deviations are 137.
        assert!(
            hits.values().all(|hits| (863..=1137).contains(hits)),
            "{hits:?}"
        );
    }

    proptest! {
        #[test]
        fn a_choice_is_a_ready_endpoint_and_each_can_be_chosen(
            ready in proptest::collection::vec(any::<bool>(), 1..12),
            seed in any::<u64>(),
        ) {
            let mut snapshot = Snapshot::default();
            let names: Vec<String> = (0..ready.len()).map(|index| format!("w{index}")).collect();
            for (index, name) in names.iter().enumerate() {
                snapshot.insert_workload(arc(workload(name, &[&format!("10.0.0.{index}")])));
            }
            let endpoints: Vec<_> = names.iter().map(String::as_str).zip(ready.iter().copied()).collect();
            snapshot.insert_service(arc(service("s", &["10.1.0.1"], &endpoints)));
            // Another service's endpoint is never an answer.
            snapshot.insert_workload(arc(workload("other", &["10.0.1.1"])));
            snapshot.insert_service(arc(service("o", &["10.1.0.2"], &[("other", true)])));

            let expected: std::collections::BTreeSet<IpAddr> = ready
                .iter()
                .enumerate()
                .filter(|(_, ready)| **ready)
                .map(|(index, _)| ip(&format!("10.0.0.{index}")))
                .collect();
            let source = workload("client", &[]);
            let mut random = SmallRng::seed_from_u64(seed);
            let mut chosen = std::collections::BTreeSet::new();
            for _ in 0..400 {
                match snapshot.route(&source, "10.1.0.1:80".parse().unwrap(), &mut random) {
                    Route::Workload { address, .. } => {
                        prop_assert_eq!(address.port(), 8080);
                        chosen.insert(address.ip());
                    }
                    Route::Unavailable { .. } => prop_assert!(expected.is_empty()),
                    Route::Passthrough { .. } => prop_assert!(false, "passed through"),
                }
            }
            prop_assert_eq!(chosen, expected);
        }

        #[test]
        fn mapped_and_plain_ipv4_are_the_same_destination(octets in any::<[u8; 4]>(), port in 1u16..) {
            let plain = IpAddr::from(octets);
            let IpAddr::V4(v4) = plain else { unreachable!() };
            let mut snapshot = Snapshot::default();
            snapshot.insert_workload(arc(workload("a", &[&plain.to_string()])));
            let source = workload("client", &[]);
            let mut random = SmallRng::seed_from_u64(1);
            let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), port);
            let route = snapshot.route(&source, mapped, &mut random);
            prop_assert_eq!(workload_address(&route), SocketAddr::new(plain, port));
        }
    }
}
