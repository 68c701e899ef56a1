//! What capture needs in a pod's network namespace beside programs.

use std::{io, net::Ipv4Addr};

use thiserror::Error;
use ztun_common::Family;

use super::{
    addresses::NamespaceAddresses,
    changes::Changes as AddressChanges,
    listeners::{self, ListenError},
    netlink::{Netlink, NetlinkError},
    routes::{self, Added, Captured},
    sysctl::{Sysctl, SysctlError},
};
use crate::proxy::pod::PodListeners;

/// Sysctls that have to be set, each with its value.
pub const SYSCTLS: [(Sysctl, &str); 3] = [
    // The accepted socket takes the captured packet's mark, so that its answers find their way
    // back over loopback. For both families.
    (Sysctl("net/ipv4/tcp_fwmark_accept"), "1"),
    // Resets answer captured packets with the mark too: a closed port would hang otherwise.
    (Sysctl("net/ipv4/fwmark_reflect"), "1"),
    (Sysctl("net/ipv6/fwmark_reflect"), "1"),
];

const LOOPBACK_V6_DISABLED: Sysctl = Sysctl("net/ipv6/conf/lo/disable_ipv6");

/// A network namespace that is ready for capture.
pub struct Prepared {
    pub addresses: NamespaceAddresses,
    /// Tells of what changed since the addresses were read.
    pub later: AddressChanges,
    pub listeners: PodListeners,
    changes: Changes,
}

/// What was changed in a namespace, so that it can be taken back.
#[derive(Default)]
pub struct Changes {
    sysctls: Vec<(Sysctl, String)>,
    added: Vec<Added>,
}

#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(
        "the pod has no address but loopback's: enrol it after its network is set up (the CNI plugin comes last in the chain)"
    )]
    NoAddress,
    #[error("cannot subscribe to the pod's address changes: {0}")]
    Subscribe(io::Error),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Prepares the calling thread's namespace; on an error everything is as it was, but that its
/// loopback interface is up. `listeners` are an earlier daemon's, which go on.
pub fn prepare(listeners: PodListeners) -> Result<Prepared, PrepareError> {
    let netlink = Netlink::connect()?;
    let later = AddressChanges::subscribe().map_err(PrepareError::Subscribe)?;
    let addresses = NamespaceAddresses::read(&netlink)?;
    if addresses.is_empty() {
        return Err(PrepareError::NoAddress);
    }
    let mut changes = Changes::default();
    match change(&netlink, &addresses, listeners, &mut changes) {
        Ok(listeners) => Ok(Prepared {
            addresses,
            later,
            listeners,
            changes,
        }),
        Err(error) => {
            changes.undo_with(&netlink);
            Err(error)
        }
    }
}

impl Prepared {
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }
}

impl Changes {
    /// Takes everything back in the calling thread's namespace.
    pub fn undo(self) {
        match Netlink::connect() {
            Ok(netlink) => self.undo_with(&netlink),
            Err(error) => tracing::warn!(%error, "cannot undo a failed enrolment"),
        }
    }

    fn undo_with(self, netlink: &Netlink) {
        for added in self.added.into_iter().rev() {
            if let Err(error) = routes::remove(netlink, added) {
                tracing::warn!(%error, "cannot undo a failed enrolment");
            }
        }
        for (sysctl, previous) in self.sysctls.into_iter().rev() {
            if let Err(error) = sysctl.set(&previous) {
                tracing::warn!(%error, "cannot undo a failed enrolment");
            }
        }
    }
}

/// Sets the sysctls and opens the listeners of the given families.
///
/// In a family in which the pod has no address there is no listener either, so connections are
/// refused at once, as they would fail without capture.
pub fn open(families: &[Family], changes: &mut Changes) -> Result<PodListeners, PrepareError> {
    if families.contains(&Family::V6) {
        changes.set(LOOPBACK_V6_DISABLED, "0")?;
    }
    for (sysctl, value) in SYSCTLS {
        // Without IPv6 in the kernel its sysctls don't exist.
        if sysctl.get().is_some() || families.contains(&Family::V6) {
            changes.set(sysctl, value)?;
        }
    }
    Ok(listeners::open(families)?)
}

/// Installs the routes of every family in which the pod has an address.
pub fn route(
    netlink: &Netlink,
    addresses: &NamespaceAddresses,
    source: Option<Ipv4Addr>,
    changes: &mut Changes,
) -> Result<(), PrepareError> {
    if let Some(source) = source {
        routes::install(netlink, Captured::V4 { source }, &mut changes.added)?;
    }
    if addresses.families.contains(&Family::V6) {
        routes::install(netlink, Captured::V6, &mut changes.added)?;
    }
    Ok(())
}

fn change(
    netlink: &Netlink,
    addresses: &NamespaceAddresses,
    mut listeners: PodListeners,
    changes: &mut Changes,
) -> Result<PodListeners, PrepareError> {
    netlink.bring_loopback_up()?;
    let lacking = listeners::lacking(&addresses.families, &listeners);
    listeners.append(open(&lacking, changes)?);
    route(netlink, addresses, addresses.source(None), changes)?;
    Ok(listeners)
}

impl Changes {
    fn set(&mut self, sysctl: Sysctl, value: &str) -> Result<(), SysctlError> {
        if let Some(previous) = sysctl.set(value)? {
            self.sysctls.push((sysctl, previous));
        }
        Ok(())
    }
}
