//! What others rely on: the contract of CNI, the API of the CA, and what is left in the kernel.

mod ca_api;
mod ca_node;
mod cni;
mod envoy;
mod kernel_state;
mod openssl;
mod pod_end;
