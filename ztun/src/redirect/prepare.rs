//! What capture needs in a pod's network namespace before programs are attached.

use std::net::IpAddr;

use thiserror::Error;
use ztun_common::Family;

use super::{
    listeners::{self, ListenError},
    netlink::{Netlink, NetlinkError, family_of},
    routes::{self, Added},
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
    pub addresses: Vec<IpAddr>,
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
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Prepares the calling thread's namespace; on an error everything is as it was, but that its
/// loopback interface is up.
pub fn prepare() -> Result<Prepared, PrepareError> {
    let netlink = Netlink::connect()?;
    let addresses = netlink.addresses()?;
    if addresses.is_empty() {
        return Err(PrepareError::NoAddress);
    }
    let mut changes = Changes::default();
    match change(&netlink, &addresses, &mut changes) {
        Ok(listeners) => Ok(Prepared {
            addresses,
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
    pub fn into_changes(self) -> Changes {
        self.changes
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

/// The families in which the pod has an address. In another one there is no listener either, so
/// connections are refused at once, as they would fail without capture.
pub fn families(addresses: &[IpAddr]) -> Vec<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|&family| addresses.iter().any(|&ip| family_of(ip) == family))
        .collect()
}

fn change(
    netlink: &Netlink,
    addresses: &[IpAddr],
    changes: &mut Changes,
) -> Result<PodListeners, PrepareError> {
    netlink.bring_loopback_up()?;
    let families = families(addresses);
    if families.contains(&Family::V6) {
        changes.set(LOOPBACK_V6_DISABLED, "0")?;
    }
    for (sysctl, value) in SYSCTLS {
        // Without IPv6 in the kernel its sysctls don't exist.
        if sysctl.get().is_some() || families.contains(&Family::V6) {
            changes.set(sysctl, value)?;
        }
    }
    let listeners = listeners::open(&families)?;
    for family in families {
        let source = addresses.iter().find(|&&ip| family_of(ip) == family);
        if let Some(&source) = source {
            routes::install(netlink, source, &mut changes.added)?;
        }
    }
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
