//! What tests want of the kernel and not every kernel has, found by trying.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkNetkit, packet_route::link::NetkitMode};

use crate::namespace::in_thread;

const MAX_USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// Something of the kernel that a test can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Ipv6,
    /// netkit devices (Linux 6.7).
    Netkit,
    UserNamespaces,
}

impl Feature {
    /// Says why the kernel does not have it.
    pub fn require(self) -> Result<(), String> {
        match self {
            Self::Ipv6 if has_ipv6() => Ok(()),
            Self::Ipv6 => Err("needs IPv6, which this kernel has not".into()),
            Self::Netkit => make_netkit()
                .map_err(|error| format!("needs netkit (Linux 6.7): {}", error.root_cause())),
            Self::UserNamespaces => match fs::read_to_string(MAX_USER_NAMESPACES) {
                Ok(limit) if limit.trim() != "0" => Ok(()),
                _ => Err("needs user namespaces, which this machine forbids".into()),
            },
        }
    }
}

/// Whether the kernel has IPv6 at all, which one that was booted with `ipv6.disable=1` has not.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// An address of each family that the kernel has.
pub fn of_available_families(v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
    let mut addresses = vec![v4.into()];
    if has_ipv6() {
        addresses.push(v6.into());
    }
    addresses
}

/// Makes a pair of devices in a namespace that goes with the thread.
fn make_netkit() -> Result<()> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            let pair = LinkNetkit::new("probe0", "probe1", NetkitMode::L3).build();
            match handle.link().add(pair).execute().await {
                Err(rtnetlink::Error::NetlinkError(refusal)) => Err(refusal.to_io().into()),
                made => Ok(made?),
            }
        })
    })
}
