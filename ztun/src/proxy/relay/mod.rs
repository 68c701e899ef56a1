//! Moves bytes between two ends until both directions are finished: FIN stays FIN, RST stays RST.
//!
//! An end that is dropped before the relay is finished resets its peer (see [`super::socket`]), so
//! every early return here is a reset on both sides.

mod backlog;
mod buffer;
mod tcp;
mod tunnel;

use std::{io, sync::Arc};

use tokio::{io::Interest, net::TcpStream};

pub use self::{tcp::relay_tcp, tunnel::relay_tunnel};
use super::error::{ProxyError, Side};
use crate::observe::OpenConnection;

/// The connections that count a relay's bytes: one, or both ends' on the same node.
#[derive(Debug, Clone)]
pub struct Meter(Vec<Arc<OpenConnection>>);

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToDestination,
    ToSource,
}

impl Meter {
    pub fn new(connections: impl Into<Vec<Arc<OpenConnection>>>) -> Self {
        Self(connections.into())
    }

    fn count(&self, way: Way, bytes: usize) {
        for connection in &self.0 {
            match way {
                Way::ToDestination => connection.sent_to_destination(bytes),
                Way::ToSource => connection.sent_to_source(bytes),
            }
        }
    }

    /// Resolves when one of the connections is to be closed.
    async fn closed(&self) -> ProxyError {
        let waits = self.0.iter().map(|open| Box::pin(open.closed()));
        futures_util::future::select_all(waits).await.0
    }
}

impl Way {
    /// The side that such a copy reads from.
    fn from(self) -> Side {
        match self {
            Self::ToDestination => Side::Downstream,
            Self::ToSource => Side::Upstream,
        }
    }

    /// The side that such a copy writes to.
    fn to(self) -> Side {
        match self {
            Self::ToDestination => Side::Upstream,
            Self::ToSource => Side::Downstream,
        }
    }
}

fn reset(side: Side, error: &dyn std::fmt::Display) -> ProxyError {
    ProxyError::Reset {
        side,
        reason: error.to_string(),
    }
}

/// Resolves when the peer of `stream` has reset it, also while nobody reads or writes.
async fn reset_by_peer(stream: &TcpStream, side: Side) -> ProxyError {
    let error = match stream.ready(Interest::ERROR).await {
        Ok(_) => match stream.take_error() {
            Ok(Some(error)) | Err(error) => error,
            // Another reader has taken it.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    };
    reset(side, &error)
}
