//! What the daemon and the kernel programs share: types, numbers, and the verdicts themselves.
//!
//! The verdicts are plain functions over plain values, so that the host's tests cover what the
//! kernel runs.
#![cfg_attr(not(test), no_std)]
// A kernel program has no stack to spare for calls, and the verifier judges each function alone.
#![allow(clippy::inline_always)]

mod address;
mod capture;
mod listener;
mod note;
mod steer;
mod verdict;

pub use address::{Address, Family};
pub use capture::{Capture, Connect, Refusal, capture};
pub use listener::{Listener, ListenerKey};
pub use note::{Endpoint, Flow, Note, Opening, note};
pub use steer::{Lookup, Steer, steer};
pub use verdict::Verdict;

/// The mark of captured packets and of the daemon's last hop; the same as the peer's (WIRE.md, §1).
pub const MARK: u32 = 0x539;

/// Where HBONE arrives. As wide as the field of the kernel that it is compared to.
pub const HBONE_PORT: u32 = 15008;

/// The most addresses that a captured pod can have.
pub const MAX_ADDRESSES: u32 = 32;

/// The most connections whose rewriting the daemon has not yet heard of: those in the queue of a
/// listener.
pub const MAX_REWRITTEN: u32 = 4096;

/// The most connections that a node's kubelet can have open to pods at once.
pub const MAX_PROBES: u32 = 16384;

/// The index of the loopback interface in every network namespace.
pub const LOOPBACK_INTERFACE: u32 = 1;

const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_MPTCP`: such a socket's subflows are TCP on the wire.
const IPPROTO_MPTCP: u32 = 262;

#[inline(always)]
const fn is_tcp(protocol: u32) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}
