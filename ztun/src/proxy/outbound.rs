//! Out of a pod: where the application's connection goes, and by which way.

use std::{net::SocketAddr, sync::Arc};

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

pub async fn serve(proxy: &Arc<Proxy>, pod: &Arc<LocalPod>, accepted: Accepted) {
    let (source, decided) = match proxy.workload_of(pod).await {
        Ok((snapshot, workload)) => {
            let destination = destination(pod, &snapshot, &workload, &accepted);
            let decided = decide(proxy, &snapshot, &workload, destination);
            (Some(workload), decided)
        }
        Err(error) => (None, Decided::refuse(accepted.dialled, error)),
    };
    let hbone_address = match &decided.plan {
        Plan::Hbone { .. } => Some(SocketAddr::new(
            decided.destination.address.ip(),
            proxy.settings.transport.hbone_port,
        )),
        _ => None,
    };
    let connection = proxy.connections.open(Flow {
        pod: pod.pod.name.clone(),
        direction: Direction::Outbound,
        source: match &source {
            Some(workload) => Party::workload(accepted.client, workload),
            None => Party::unknown(accepted.client),
        },
        destination: decided.destination,
        hbone_address,
        service: decided.service,
        security: match &decided.plan {
            Plan::Hbone { .. } => Security::MutualTls,
            Plan::SameNode(_) => Security::SameNode,
            Plan::Plaintext | Plan::Refuse(_) => Security::Plaintext,
        },
    });
    let application = accepted.stream;
    let outcome = match decided.plan {
        Plan::SameNode(peer) => same_node(proxy, &peer, application, &connection).await,
        Plan::Hbone {
            source,
            destination,
        } => hbone(proxy, pod, &source, &destination, application, &connection).await,
        Plan::Plaintext => plaintext(proxy, pod, application, &connection).await,
        Plan::Refuse(error) => {
            drop(application);
            Err(error)
        }
    };
    proxy.connections.finish(&connection, &outcome);
}

/// What the kernel shows, or what the application asked for before another program changed it, if
/// the mesh knows that: services and policies are written for the address that was asked for.
fn destination(
    pod: &LocalPod,
    snapshot: &Snapshot,
    source: &Workload,
    accepted: &Accepted,
) -> SocketAddr {
    let dialled = accepted.dialled;
    let asked = pod.pod.sockets.asked_destination(accepted.client, dialled);
    let knows = |asked: &SocketAddr| {
        let route = snapshot.route(source, *asked, &mut rand::rng());
        !matches!(route, Route::Passthrough { .. })
    };
    asked.filter(knows).unwrap_or(dialled)
}

fn decide(
    proxy: &Proxy,
    snapshot: &Snapshot,
    source: &Arc<Workload>,
    dialled: SocketAddr,
) -> Decided {
    let (workload, address, service) = match snapshot.route(source, dialled, &mut rand::rng()) {
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

async fn same_node(
    proxy: &Proxy,
    peer: &LocalPod,
    application: TcpStream,
    connection: &Arc<OpenConnection>,
) -> Result<(), ProxyError> {
    let flow = connection.flow();
    let entry = Entry {
        source: flow.source.clone(),
        address: flow.destination.address,
        security: Security::SameNode,
        hbone_address: None,
        service: flow.service.clone(),
        peer: None,
    };
    let (entered, admitted) = inbound::admit(proxy, peer, entry).await;
    let outcome = match admitted {
        Ok(destination) => {
            let meter = Meter::new([Arc::clone(connection), Arc::clone(&entered)]);
            relay_tcp(application, destination, &meter).await
        }
        Err(error) => Err(error),
    };
    proxy.connections.finish(&entered, &outcome);
    outcome
}

async fn hbone(
    proxy: &Proxy,
    pod: &LocalPod,
    source: &Workload,
    destination: &Workload,
    application: TcpStream,
    connection: &Arc<OpenConnection>,
) -> Result<(), ProxyError> {
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
    let PooledTunnel {
        tunnel,
        lease,
        peer,
    } = proxy.pool.tunnel(&key, &pod.pod.sockets, request).await?;
    connection.carried_by(Arc::clone(&peer));
    // Asked once it can be found: trust may have changed while the tunnel was set up.
    proxy.certificates.trust().judge(&peer)?;
    let meter = Meter::new([Arc::clone(connection)]);
    let outcome = relay_tunnel(application, Side::Downstream, tunnel, &meter).await;
    drop(lease);
    outcome
}

async fn plaintext(
    proxy: &Proxy,
    pod: &LocalPod,
    application: TcpStream,
    connection: &Arc<OpenConnection>,
) -> Result<(), ProxyError> {
    let flow = connection.flow();
    let address = flow.destination.address;
    let source = flow.source.address.ip();
    let socket = pod.pod.sockets.upstream(source, address);
    let limit = proxy.settings.timeouts.tcp_connect;
    let upstream = socket::connect(socket, Target::Application, address, limit).await?;
    let meter = Meter::new([Arc::clone(connection)]);
    relay_tcp(application, upstream, &meter).await
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
