//! One connection as telemetry describes it: who, whom, through what.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::claimed::ClaimedWorkload;
use crate::mesh::{Identity, PodName, Service, Workload};

/// Which side of the connection reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    MutualTls,
    /// Between two pods of this node: both identities are known, and no byte leaves the node.
    SameNode,
    Plaintext,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Party {
    pub address: SocketAddr,
    pub workload: Option<Arc<Workload>>,
    /// What it says of itself, if the mesh state doesn't know the workload.
    pub claimed: Option<Arc<ClaimedWorkload>>,
    /// Proven by mutual TLS or by this node's own registry; never taken from a header.
    pub identity: Option<Identity>,
    /// For whom it connects, as it says, if that is somebody else.
    pub forwarded_for: Option<IpAddr>,
}

#[derive(Clone, Debug)]
pub struct Flow {
    /// The pod of this node that reports it.
    pub pod: PodName,
    pub direction: Direction,
    pub source: Party,
    pub destination: Party,
    /// Where the tunnel to the destination ends, if there is one.
    pub hbone_address: Option<SocketAddr>,
    pub service: Option<Arc<Service>>,
    pub security: Security,
}

/// How a connection ended, by the label that dashboards know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    None,
    /// Policy refused it.
    Deny,
    /// The destination could not be reached, or the connection broke.
    Connect,
    TlsFailure,
    Http2HandshakeFailure,
    /// The destination's HBONE port stayed silent, which is what a `NetworkPolicy` looks like.
    NetworkPolicy,
    IdentityError,
    CertificateRevoked,
}

impl Party {
    pub fn unknown(address: SocketAddr) -> Self {
        Self {
            address,
            workload: None,
            claimed: None,
            identity: None,
            forwarded_for: None,
        }
    }

    /// A workload whose identity is proven.
    pub fn workload(address: SocketAddr, workload: &Arc<Workload>) -> Self {
        Self {
            workload: Some(Arc::clone(workload)),
            identity: Some(workload.identity.clone()),
            ..Self::unknown(address)
        }
    }

    /// A workload that an address belongs to, without proof.
    pub fn unproven(address: SocketAddr, workload: Option<&Arc<Workload>>) -> Self {
        Self {
            workload: workload.cloned(),
            ..Self::unknown(address)
        }
    }
}

impl ResponseFlag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::Http2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertificateRevoked => "CERT_REVOKED",
        }
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MutualTls => "mutual TLS",
            Self::SameNode => "same node",
            Self::Plaintext => "plaintext",
        })
    }
}
