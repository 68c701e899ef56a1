//! What others rely on: the contract of CNI, the API of the CA.

mod ca_api;
mod ca_node;
mod cni;
mod envoy;
mod kernel_state;
mod openssl;
