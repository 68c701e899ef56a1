//! What others rely on: the contract of CNI.

mod cni;
mod kernel_state;
mod openssl;
