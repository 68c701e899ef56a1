//! Where an outbound connection goes: the decision, without the connecting.

use std::{net::SocketAddr, sync::Arc};

use super::{service::Service, workload::Workload};

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
