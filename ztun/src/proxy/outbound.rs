//! Out of a pod: where the application's connection goes, and by which way.

use std::{net::SocketAddr, sync::Arc};

use rand::seq::IteratorRandom;
use tokio::net::TcpStream;

use super::{
    Proxy,
    error::{ProxyError, Side, Target},
    hbone::headers::connect_request,
    inbound::{self, Entry},
    listen::Accepted,
    pool::{PoolKey, PooledTunnel},
    registry::LocalPod,
    relay::{Meter, relay_tcp, relay_tunnel},
    socket,
};
use crate::{
    mesh::{Route, Service, Snapshot, Workload, transport::Transport},
    observe::{Direction, Flow, OpenConnection, Party, Security},
};

/// How many endpoints of a service are tried for one connection.
const ENDPOINTS: usize = 3;

/// What was decided for one connection.
#[derive(Debug)]
enum Plan {
    /// Another pod of this node, inside this process.
    SameNode(Arc<LocalPod>),
    /// The proxy beside the destination.
    Hbone {
        source: Arc<Workload>,
        destination: Arc<Workload>,
    },
    /// As it is: the destination is not enrolled.
    Plaintext,
    Refuse(ProxyError),
}

/// A plan, and what telemetry says of it.
#[derive(Debug)]
struct Decided {
    plan: Plan,
    destination: Party,
    service: Option<Arc<Service>>,
}

/// The destination is there, and nothing was sent yet.
#[derive(Debug)]
enum Reached {
    SameNode {
        application: TcpStream,
        entered: Arc<OpenConnection>,
    },
    Tunnel(Box<PooledTunnel>),
    Plaintext(TcpStream),
}

/// Who opened a connection, and to where.
#[derive(Debug)]
struct Dial {
    client: SocketAddr,
    dialled: SocketAddr,
    /// What the application asked for before another program changed it.
    asked: Option<SocketAddr>,
}

pub async fn serve(proxy: &Arc<Proxy>, pod: &Arc<LocalPod>, accepted: Accepted) {
    let Accepted {
        stream: application,
        client,
        dialled,
    } = accepted;
    let dial = Dial {
        client,
        dialled,
        asked: pod.pod.sockets.asked_destination(client, dialled),
    };
    let mut tried = Vec::new();
    let (mut source, mut decided) = match proxy.workload_of(pod).await {
        Ok((snapshot, workload)) => {
            let route = snapshot.route(&workload, dial.to(&snapshot, &workload), &mut rand::rng());
            let decided = decide(proxy, &workload, dial.dialled, route);
            (Some(workload), decided)
        }
        Err(error) => (None, Decided::refuse(dial.dialled, error)),
    };
    loop {
        let connection = open(proxy, pod, &dial, source.as_ref(), &decided);
        let error = match reach(proxy, pod, decided.plan, &connection).await {
            Ok(reached) => {
                let outcome = relay(proxy, application, reached, &connection).await;
                return proxy.connections.finish(&connection, &outcome);
            }
            Err(error) => error,
        };
        let next = if connection.flow().service.is_some() && error.is_unreachable() {
            tried.push(connection.flow().destination.address);
            another_endpoint(proxy, pod, &dial, &tried).await
        } else {
            None
        };
        let Some((workload, next)) = next else {
            drop(application);
            return proxy.connections.finish(&connection, &Err(error));
        };
        proxy.connections.finish(&connection, &Err(error));
        (source, decided) = (Some(workload), next);
    }
}

/// One that the mesh has for the service by now, and that was not tried.
async fn another_endpoint(
    proxy: &Proxy,
    pod: &LocalPod,
    dial: &Dial,
    tried: &[SocketAddr],
) -> Option<(Arc<Workload>, Decided)> {
    if tried.len() >= ENDPOINTS {
        return None;
    }
    let (snapshot, source) = proxy.workload_of(pod).await.ok()?;
    let routes = snapshot.routes(dial.to(&snapshot, &source)).into_iter();
    let is_new = |route: &Route| match route {
        Route::Workload {
            address, service, ..
        } => service.is_some() && !tried.contains(address),
        Route::Passthrough { .. } | Route::Unavailable { .. } => false,
    };
    let route = routes.filter(is_new).choose(&mut rand::rng())?;
    let decided = decide(proxy, &source, dial.dialled, route);
    Some((source, decided))
}

fn open(
    proxy: &Proxy,
    pod: &LocalPod,
    dial: &Dial,
    source: Option<&Arc<Workload>>,
    decided: &Decided,
) -> Arc<OpenConnection> {
    let hbone_address = match &decided.plan {
        Plan::Hbone { .. } => Some(SocketAddr::new(
            decided.destination.address.ip(),
            proxy.settings.transport.hbone_port,
        )),
        _ => None,
    };
    proxy.connections.open(Flow {
        pod: pod.pod.name.clone(),
        direction: Direction::Outbound,
        source: match source {
            Some(workload) => Party::workload(dial.client, workload),
            None => Party::unknown(dial.client),
        },
        destination: decided.destination.clone(),
        hbone_address,
        service: decided.service.clone(),
        security: match &decided.plan {
            Plan::Hbone { .. } => Security::MutualTls,
            Plan::SameNode(_) => Security::SameNode,
            Plan::Plaintext | Plan::Refuse(_) => Security::Plaintext,
        },
    })
}

impl Dial {
    /// What the kernel shows, or what the application asked for before another program changed it, if
    /// the mesh knows that: services and policies are written for the address that was asked for.
    fn to(&self, snapshot: &Snapshot, source: &Workload) -> SocketAddr {
        let knows = |asked: &SocketAddr| {
            let route = snapshot.route(source, *asked, &mut rand::rng());
            !matches!(route, Route::Passthrough { .. })
        };
        self.asked.filter(knows).unwrap_or(self.dialled)
    }
}

fn decide(proxy: &Proxy, source: &Arc<Workload>, dialled: SocketAddr, route: Route) -> Decided {
    let (workload, address, service) = match route {
        Route::Workload {
            workload,
            address,
            service,
        } => (workload, address, service),
        Route::Passthrough { address } => {
            return Decided {
                plan: Plan::Plaintext,
                destination: Party::unknown(address),
                service: None,
            };
        }
        Route::Unavailable { reason } => {
            return Decided::refuse(dialled, ProxyError::Unavailable { reason });
        }
    };
    let local = || proxy.pods.find(&workload, address.ip());
    let transport = &proxy.settings.transport;
    let plan = match transport.transport(source, &workload, address.port(), local) {
        Transport::ReservedPort => {
            return Decided::refuse(address, ProxyError::ReservedPort { address });
        }
        Transport::Plaintext => {
            return Decided {
                plan: Plan::Plaintext,
                destination: Party::unproven(address, Some(&workload)),
                service,
            };
        }
        Transport::SameNode(pod) => Plan::SameNode(pod),
        Transport::Hbone => Plan::Hbone {
            source: Arc::clone(source),
            destination: Arc::clone(&workload),
        },
    };
    Decided {
        plan,
        destination: Party::workload(address, &workload),
        service,
    }
}

async fn reach(
    proxy: &Arc<Proxy>,
    pod: &LocalPod,
    plan: Plan,
    connection: &Arc<OpenConnection>,
) -> Result<Reached, ProxyError> {
    let flow = connection.flow();
    match plan {
        Plan::SameNode(peer) => same_node(proxy, &peer, flow).await,
        Plan::Hbone {
            source,
            destination,
        } => hbone(proxy, pod, &source, &destination, connection).await,
        Plan::Plaintext => plaintext(proxy, pod, flow).await,
        Plan::Refuse(error) => Err(error),
    }
}

async fn same_node(proxy: &Proxy, peer: &LocalPod, flow: &Flow) -> Result<Reached, ProxyError> {
    let entry = Entry {
        source: flow.source.clone(),
        address: flow.destination.address,
        security: Security::SameNode,
        hbone_address: None,
        service: flow.service.clone(),
        peer: None,
    };
    match inbound::admit(proxy, peer, entry).await {
        (entered, Ok(application)) => Ok(Reached::SameNode {
            application,
            entered,
        }),
        (entered, Err(error)) => {
            proxy.connections.finish(&entered, &Err(error.clone()));
            Err(error)
        }
    }
}

async fn hbone(
    proxy: &Proxy,
    pod: &LocalPod,
    source: &Workload,
    destination: &Workload,
    connection: &OpenConnection,
) -> Result<Reached, ProxyError> {
    let flow = connection.flow();
    let target = flow.destination.address;
    let key = PoolKey {
        source_pod: pod.pod.name.clone(),
        source: source.identity.clone(),
        source_address: flow.source.address.ip(),
        destination: destination.uid.clone(),
        destination_identity: destination.identity.clone(),
        address: SocketAddr::new(target.ip(), proxy.settings.transport.hbone_port),
    };
    let request = || {
        let client = flow.source.address.ip();
        connect_request(
            target,
            source,
            client,
            flow.service.as_deref(),
            &mut rand::rng(),
        )
    };
    let tunnel = proxy.pool.tunnel(&key, &pod.pod.sockets, request).await?;
    connection.carried_by(Arc::clone(&tunnel.peer));
    // Asked once it can be found: trust may have changed while the tunnel was set up.
    proxy.certificates.trust().judge(&tunnel.peer)?;
    Ok(Reached::Tunnel(Box::new(tunnel)))
}

async fn plaintext(proxy: &Proxy, pod: &LocalPod, flow: &Flow) -> Result<Reached, ProxyError> {
    let address = flow.destination.address;
    let source = flow.source.address.ip();
    let socket = pod.pod.sockets.upstream(source, address);
    let limit = proxy.settings.timeouts.tcp_connect;
    let upstream = socket::connect(socket, Target::Application, address, limit).await?;
    Ok(Reached::Plaintext(upstream))
}

async fn relay(
    proxy: &Proxy,
    client: TcpStream,
    reached: Reached,
    connection: &Arc<OpenConnection>,
) -> Result<(), ProxyError> {
    match reached {
        Reached::SameNode {
            application,
            entered,
        } => {
            let meter = Meter::new([Arc::clone(connection), Arc::clone(&entered)]);
            let outcome = relay_tcp(client, application, &meter).await;
            proxy.connections.finish(&entered, &outcome);
            outcome
        }
        Reached::Tunnel(pooled) => {
            let PooledTunnel { tunnel, lease, .. } = *pooled;
            let meter = Meter::new([Arc::clone(connection)]);
            let outcome = relay_tunnel(client, Side::Downstream, tunnel, &meter).await;
            drop(lease);
            outcome
        }
        Reached::Plaintext(upstream) => {
            let meter = Meter::new([Arc::clone(connection)]);
            relay_tcp(client, upstream, &meter).await
        }
    }
}

impl Decided {
    fn refuse(address: SocketAddr, error: ProxyError) -> Self {
        Self {
            plan: Plan::Refuse(error),
            destination: Party::unknown(address),
            service: None,
        }
    }
}
