//! Who may talk to whom: one function decides for HBONE, plaintext and the same-node path.

pub mod authorization;
mod fail_closed;
mod peer_authentication;
mod selector;

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::Serialize;

pub use self::{
    fail_closed::{FailClosed, Target},
    peer_authentication::{MtlsMode, PeerAuthentication, PeerAuthentications},
    selector::Selector,
};
use super::{identity::Identity, workload::Workload};

/// One inbound connection, as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Whom mutual TLS (or the same node's registry) proved the client to be; `None` is plaintext.
    pub source: Option<&'a Identity>,
    pub source_address: SocketAddr,
    pub destination: &'a Workload,
    pub destination_address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(Denial),
}

/// Which policy refused a connection, and why, in the operator's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Kind, namespace and name, such as `PeerAuthentication foo/default`.
    pub policy: Arc<str>,
    /// Such as `mode STRICT requires mutual TLS and the connection is plaintext`.
    pub reason: Arc<str>,
}

/// Every policy of the mesh.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    pub peer_authentications: PeerAuthentications,
    pub fail_closed: Vec<FailClosed>,
}

impl Policies {
    pub fn authorize(&self, connection: &Connection<'_>) -> Decision {
        let closed = self
            .fail_closed
            .iter()
            .find_map(|policy| policy.check(connection.destination));
        let denial = closed.or_else(|| self.peer_authentications.check(connection));
        denial.map_or(Decision::Allow, Decision::Deny)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied by {}: {}", self.policy, self.reason)
    }
}
