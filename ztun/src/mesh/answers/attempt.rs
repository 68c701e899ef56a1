//! A connection as the client's side would make it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Client, HostPort, Query,
    lookup::{Destination, LookupError},
};
use crate::mesh::{
    Connection, Identity, PodName, Route, Snapshot, Workload,
    transport::{Transport, TransportSettings},
    workload::TunnelProtocol,
};

/// Answers from one view of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    pub snapshot: &'a Snapshot,
    /// The name of the node that answers.
    pub node: &'a str,
    /// Every node's, as far as this one knows: settings are meant to be the same on all.
    pub transport: TransportSettings,
}

/// What the client's side does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum ClientSide {
    MutualTls,
    /// Within the daemon of both: identities are known, and no byte leaves the node.
    SameNode,
    Plaintext,
    Refused {
        why: String,
    },
}

/// Where a connection arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The workload's own address and port.
    pub address: SocketAddr,
    /// `None` for what the mesh doesn't know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("{0}")]
    Unavailable(String),
    #[error(
        "{0} would connect to its own address: that stays inside the pod, where no policy judges it"
    )]
    Itself(String),
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) source: Client,
    /// What the client asks for.
    pub(super) host: HostPort,
    pub(super) address: SocketAddr,
    pub(super) destination: Option<Arc<Workload>>,
    pub(super) client: ClientSide,
    /// Whether `client` holds only if another node has the `sameNode` of this one.
    pub(super) assumed: bool,
}

impl Answers<'_> {
    /// One for each pod that the source stands for and each endpoint that may be chosen.
    pub(super) fn attempts(&self, query: &Query) -> Result<Vec<Attempt>, QueryError> {
        let HostPort { host, port } = &query.destination;
        let sources = self.snapshot.clients(&query.source)?;
        let destination = self.snapshot.destination(host)?;
        let mut attempts = Vec::new();
        for source in &sources {
            attempts.extend(self.attempts_of(source, &destination, *port)?);
        }
        if attempts.is_empty() {
            return Err(QueryError::Itself(query.source.clone()));
        }
        Ok(attempts)
    }

    /// None where the source would reach its own address without a proxy.
    pub(super) fn attempts_of(
        &self,
        source: &Client,
        destination: &Destination,
        port: u16,
    ) -> Result<Vec<Attempt>, QueryError> {
        let host = HostPort {
            host: destination.host.clone(),
            port,
        };
        let mut attempts = Vec::new();
        let mut addresses = destination.addresses.iter();
        let any_reachable = addresses.any(|address| source.has_family_of(*address));
        for address in &destination.addresses {
            if source.answers_on(*address) || (any_reachable && !source.has_family_of(*address)) {
                continue;
            }
            for route in self.snapshot.routes(SocketAddr::new(*address, port)) {
                let (workload, address) = match route {
                    Route::Workload {
                        workload, address, ..
                    } => (Some(workload), address),
                    Route::Passthrough { address } => (None, address),
                    Route::Unavailable { reason } => return Err(QueryError::Unavailable(reason)),
                };
                let destination_node = workload.as_deref().map(|workload| &*workload.node);
                let within_node = source.enrolled().map(|it| &*it.node) == destination_node;
                attempts.push(Attempt {
                    assumed: within_node && destination_node.is_some_and(|it| *it != *self.node),
                    client: self.client_side(source, workload.as_deref(), address),
                    source: source.clone(),
                    host: host.clone(),
                    address,
                    destination: workload,
                });
            }
        }
        Ok(attempts)
    }

    /// As `proxy::outbound` decides, but that a pod is taken to be where the mesh places it.
    fn client_side(
        &self,
        source: &Client,
        destination: Option<&Workload>,
        address: SocketAddr,
    ) -> ClientSide {
        let (Some(source), Some(destination)) = (source.enrolled(), destination) else {
            return ClientSide::Plaintext;
        };
        let local = || (source.node == destination.node).then_some(());
        let transport = &self.transport;
        match transport.transport(source, destination, address.port(), local) {
            Transport::Plaintext => ClientSide::Plaintext,
            Transport::SameNode(()) => ClientSide::SameNode,
            Transport::Hbone => ClientSide::MutualTls,
            Transport::ReservedPort => ClientSide::Refused {
                why: format!("port {} is the proxy's own", address.port()),
            },
        }
    }
}

impl Attempt {
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address,
            pod: self.destination.as_ref().map(|to| to.pod.clone()),
        }
    }

    /// The destination, if it has a proxy that judges.
    pub(super) fn enrolled_destination(&self) -> Option<&Workload> {
        let destination = self.destination.as_deref()?;
        (destination.tunnel_protocol != TunnelProtocol::None).then_some(destination)
    }

    /// Whom the destination's proxy knows the client to be.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self.client {
            ClientSide::MutualTls | ClientSide::SameNode => Some(&self.source.enrolled()?.identity),
            ClientSide::Plaintext | ClientSide::Refused { .. } => None,
        }
    }

    /// The connection as the policies of `destination` see it. Its source port is not known yet.
    pub(super) fn connection<'a>(&'a self, destination: &'a Workload) -> Connection<'a> {
        let source = match &self.source {
            Client::Workload(workload) => workload.address_like(self.address.ip()),
            Client::Address(address) => Some(*address),
        };
        Connection {
            source: self.identity(),
            // A source is a workload only if it has an address.
            source_address: SocketAddr::new(source.unwrap_or(self.address.ip()), 0),
            destination,
            destination_address: self.address,
        }
    }
}

impl Client {
    fn enrolled(&self) -> Option<&Workload> {
        match self {
            Self::Workload(workload) => {
                (workload.tunnel_protocol != TunnelProtocol::None).then_some(workload)
            }
            Self::Address(_) => None,
        }
    }

    /// Whether it can connect to an address of this family.
    fn has_family_of(&self, address: IpAddr) -> bool {
        match self {
            Self::Workload(workload) => {
                let mut addresses = workload.addresses.iter();
                addresses.any(|own| own.is_ipv4() == address.is_ipv4())
            }
            Self::Address(own) => own.is_ipv4() == address.is_ipv4(),
        }
    }

    fn answers_on(&self, address: IpAddr) -> bool {
        match self {
            Self::Workload(workload) => workload.addresses.contains(&address),
            Self::Address(own) => *own == address,
        }
    }
}

impl fmt::Display for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MutualTls => f.write_str("mutual TLS"),
            Self::SameNode => f.write_str("same node"),
            Self::Plaintext => f.write_str("plaintext"),
            Self::Refused { why } => write!(f, "refused: {why}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(pod) = &self.pod {
            write!(f, " ({pod})")?;
        }
        Ok(())
    }
}
