//! The data path: what happens to a captured connection.

mod context;
mod error;
mod handshakes;
pub mod hbone;
mod inbound;
mod listen;
mod outbound;
pub mod pod;
mod pool;
mod registry;
mod rejudge;
mod relay;
pub mod self_test;
pub mod settings;
mod socket;

#[cfg(test)]
mod tests;

pub use context::Proxy;
pub use error::{ProxyError, Side, Stage, Target, TlsFault};
pub use pod::{PodAddresses, PodListeners, PodSockets, ProxiedPod};
pub use settings::{ProxySettings, Timeouts};
