//! Where a connection to a service goes, whatever the number of its endpoints.

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::SmallRng};
use ztun::mesh::{Endpoint, Service, ServiceKey, Snapshot};

use super::{
    ROUND,
    large_mesh::{LargeMesh, Shape},
};

const VIP: &str = "172.16.0.1:80";

/// One choice, of the best round.
pub fn cost(endpoints: usize, count: u32) -> Result<Duration> {
    let mesh = LargeMesh::new(Shape::OneNamespace, 1, endpoints)?;
    let mut snapshot: Snapshot = mesh.snapshot_without_policies();
    let destination: SocketAddr = VIP.parse()?;
    let ports = Arc::new(BTreeMap::from([(destination.port(), 8080)]));
    let endpoint = Endpoint { ports, ready: true };
    let workloads: Vec<_> = snapshot.workloads().cloned().collect();
    let endpoints = workloads
        .iter()
        .map(|it| (it.uid.clone(), endpoint.clone()));
    snapshot.insert_service(Arc::new(Service {
        key: ServiceKey::new("bench", "service"),
        hostname: "service.bench.svc.cluster.local".into(),
        vips: vec![destination.ip()],
        ports: vec![destination.port()],
        endpoints: endpoints.collect(),
    }));
    let source = workloads.first().context("a mesh without workloads")?;
    let mut random = SmallRng::seed_from_u64(1);
    let rounds = (0..count.div_ceil(ROUND)).map(|_| {
        let start = Instant::now();
        for _ in 0..ROUND {
            black_box(snapshot.route(source, destination, &mut random));
        }
        start.elapsed() / ROUND
    });
    Ok(rounds.min().unwrap_or_default())
}
