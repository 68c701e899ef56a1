//! Into a pod: one judgement and one last hop for HBONE, plaintext and the same node.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    Proxy,
    error::{ProxyError, Target},
    listen::Accepted,
    registry::LocalPod,
    relay::{Meter, relay_tcp},
    socket,
};
use crate::{
    cert::trust::Peer,
    mesh::{Connection, Decision, Service, Workload},
    observe::{Direction, Flow, OpenConnection, Party, Security},
};

/// A connection that wants to enter a pod.
#[derive(Debug)]
pub struct Entry {
    /// Its identity is what policy judges: `None` is plaintext.
    pub source: Party,
    /// The application's address, as the client dialled it.
    pub address: SocketAddr,
    pub security: Security,
    pub hbone_address: Option<SocketAddr>,
    /// Which the client meant, if it can be told.
    pub service: Option<Arc<Service>>,
    /// Who carries it, if it came in a tunnel.
    pub peer: Option<Arc<Peer>>,
}

pub async fn serve_plaintext(proxy: &Proxy, pod: &Arc<LocalPod>, accepted: Accepted) {
    let snapshot = proxy.mesh.snapshot();
    let client = snapshot.workload_by_address(accepted.client.ip());
    let entry = Entry {
        source: Party::unproven(accepted.client, client),
        address: accepted.dialled,
        security: Security::Plaintext,
        hbone_address: None,
        service: None,
        peer: None,
    };
    let (connection, admitted) = admit(proxy, pod, entry).await;
    let outcome = match admitted {
        Ok(application) => {
            let meter = Meter::new([Arc::clone(&connection)]);
            relay_tcp(accepted.stream, application, &meter).await
        }
        Err(error) => {
            drop(accepted);
            Err(error)
        }
    };
    proxy.connections.finish(&connection, &outcome);
}

/// Judges `entry` and connects it to the application. The connection that it opens in the
/// telemetry is the caller's to finish, whatever comes.
pub async fn admit(
    proxy: &Proxy,
    pod: &LocalPod,
    entry: Entry,
) -> (Arc<OpenConnection>, Result<TcpStream, ProxyError>) {
    let known = proxy.workload_of(pod).await;
    let destination = match &known {
        Ok((_, workload)) => Party::workload(entry.address, workload),
        Err(_) => Party::unknown(entry.address),
    };
    let connection = proxy.connections.open(Flow {
        pod: pod.pod.name.clone(),
        direction: Direction::Inbound,
        source: entry.source,
        destination,
        hbone_address: entry.hbone_address,
        service: entry.service,
        security: entry.security,
    });
    if let Some(peer) = &entry.peer {
        connection.carried_by(Arc::clone(peer));
    }
    let admitted = async {
        // Asked after it is listed, like policy below: a change in between finds it there.
        if let Some(peer) = &entry.peer {
            proxy.certificates.trust().judge(peer)?;
        }
        let (snapshot, workload) = known?;
        let judged = judged(&connection, &workload);
        let findings: Vec<_> = snapshot.policies().audit(&judged).collect();
        proxy.connections.audited(&connection, &findings);
        // Judged after it is listed: a policy that changes in between finds it there.
        judge(proxy, &connection, &workload).map_err(ProxyError::Denied)?;
        last_hop(proxy, pod, connection.flow()).await
    };
    let admitted = admitted.await;
    (connection, admitted)
}

/// Whether an inbound connection may be, by the newest state.
pub fn judge(
    proxy: &Proxy,
    connection: &OpenConnection,
    destination: &Workload,
) -> Result<(), crate::mesh::Denial> {
    match proxy
        .mesh
        .snapshot()
        .authorize(&judged(connection, destination))
    {
        Decision::Allow => Ok(()),
        Decision::Deny(denial) => Err(denial),
    }
}

/// The connection as policy sees it.
fn judged<'a>(connection: &'a OpenConnection, destination: &'a Workload) -> Connection<'a> {
    let flow = connection.flow();
    Connection {
        source: flow.source.identity.as_ref(),
        source_address: flow.source.address,
        destination,
        destination_address: flow.destination.address,
    }
}

async fn last_hop(proxy: &Proxy, pod: &LocalPod, flow: &Flow) -> Result<TcpStream, ProxyError> {
    let address = flow.destination.address;
    let socket = pod.pod.sockets.last_hop(flow.source.address.ip());
    let limit = proxy.settings.timeouts.tcp_connect;
    socket::connect(socket, Target::Application, address, limit).await
}
