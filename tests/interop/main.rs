//! What others rely on: the contract of CNI.

mod cni;
mod envoy;
mod kernel_state;
