//! A daemon that is started beside a running one takes over from it.
//!
//! The successor asks on the predecessor's socket, gets the listening sockets with whatever waits
//! in their queues, makes ready, and commits. Only then the predecessor lets go: it takes no new
//! connection, finishes those that it has, and ends by itself. Until the commit nothing has
//! changed, and whoever of the two fails leaves the other one serving.

mod channel;
mod message;
mod predecessor;
mod successor;
mod warm_up;

use std::path::{Path, PathBuf};

pub use self::{
    message::{HandedPod, NodeSocket},
    predecessor::{HandedOver, HandoverServer, Heritage},
    successor::{Inheritance, TakeOverError, ask},
    warm_up::warm_up,
};

/// Where a daemon hands over whose API is at `socket`.
pub fn socket_of(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".handover");
    path.into()
}
