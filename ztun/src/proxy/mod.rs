//! The data path: what happens to a captured connection.

pub mod pod;

pub use pod::{PodListeners, PodSockets, ProxiedPod};
