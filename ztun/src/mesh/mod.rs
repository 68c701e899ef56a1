//! What the mesh looks like and what it permits: pure data and decisions.
//!
//! Nothing here does IO, reads a clock or draws a random number by itself. Sources
//! (`crate::source`) publish immutable [`Snapshot`]s; the proxy reads them.

pub mod answers;
pub mod chunked;
mod claims;
pub mod identity;
pub mod policy;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod transport;
pub mod workload;

pub use identity::{Identity, TrustDomain};
pub use policy::{Connection, Decision, Denial, Policies};
pub use route::Route;
pub use service::{Endpoint, Service, ServiceKey};
pub use snapshot::{Mesh, Snapshot};
pub use workload::{PodName, Workload, WorkloadUid};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod fixture;
