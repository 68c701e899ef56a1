//! Who may talk to whom: one function decides for HBONE, plaintext and the same-node path.

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::Serialize;

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

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied by {}: {}", self.policy, self.reason)
    }
}
