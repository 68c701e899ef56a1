//! What the two daemons say to each other: JSON, with descriptors beside it.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::{node::records::Origin, proxy::PodListeners, redirect::PodSandbox};

/// The version of these messages, and of what they say of kernel state. Two daemons that differ
/// in it can't hand over to each other.
pub const PROTOCOL: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "camelCase")]
pub enum FromSuccessor {
    #[serde(rename_all = "camelCase")]
    TakeOver {
        protocol: u32,
        version: String,
        /// The inode of its own network namespace.
        netns: u64,
    },
    /// The successor has all that it needs.
    Commit,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "camelCase")]
pub enum FromPredecessor {
    Refused {
        reason: String,
    },
    /// The sockets are beside it, in this order; a message for each pod follows.
    Node {
        version: String,
        pid: u32,
        /// Whether it serves all that it should; a successor that can't do as well gives up.
        ready: bool,
        sockets: Vec<NodeSocket>,
        pods: usize,
    },
    /// The listeners are beside it.
    Pod(HandedPod),
    /// The answer to the commit: it takes no new connection and writes no record any more.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeSocket {
    /// The state directory's lock.
    Lock,
    Api,
    Handover,
    Readiness,
    Metrics,
    Admin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedPod {
    pub sandbox: PodSandbox,
    pub origin: Origin,
    /// Whether its pod has come back in another sandbox: then it is closed and stays so.
    pub is_former: bool,
    /// How many of the descriptors are listeners of each kind.
    outbound: usize,
    inbound_plaintext: usize,
    inbound_hbone: usize,
}

impl HandedPod {
    pub fn new(
        sandbox: PodSandbox,
        origin: Origin,
        is_former: bool,
        listeners: &PodListeners,
    ) -> Self {
        Self {
            sandbox,
            origin,
            is_former,
            outbound: listeners.outbound.len(),
            inbound_plaintext: listeners.inbound_plaintext.len(),
            inbound_hbone: listeners.inbound_hbone.len(),
        }
    }

    /// The listeners, of the descriptors that came with the message; `None` if some are missing.
    pub fn listeners(&self, descriptors: Vec<OwnedFd>) -> Option<PodListeners> {
        let wanted = self.outbound + self.inbound_plaintext + self.inbound_hbone;
        if descriptors.len() != wanted {
            return None;
        }
        let mut sockets = descriptors.into_iter().map(Into::into);
        Some(PodListeners {
            outbound: sockets.by_ref().take(self.outbound).collect(),
            inbound_plaintext: sockets.by_ref().take(self.inbound_plaintext).collect(),
            inbound_hbone: sockets.collect(),
        })
    }
}
