//! Netlink in the calling thread's network namespace.

use std::{future::Future, io, net::IpAddr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        address::AddressMessage,
        link::{LinkFlags, LinkMessage},
    },
};
use thiserror::Error;
use tokio::runtime::{self, Runtime};
use ztun_common::{Family, LOOPBACK_INTERFACE};

/// A netlink connection into the namespace of the thread that made it.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

#[derive(Debug, Error)]
#[error("cannot {action}: {error}")]
pub struct NetlinkError {
    action: &'static str,
    error: io::Error,
}

impl Netlink {
    pub fn connect() -> Result<Self, NetlinkError> {
        let failed = |error| NetlinkError {
            action: "open a netlink socket",
            error,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for the answer; `action` is what an error says could not be done.
    pub fn request<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        self.runtime
            .block_on(request)
            .map_err(|error| NetlinkError {
                action,
                error: match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other),
                },
            })
    }

    /// The namespace's addresses, in the kernel's order: by interface, and primary ones first.
    pub fn addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        self.request(
            "list the pod's addresses",
            self.handle.address().get().execute().try_collect(),
        )
    }

    /// The interfaces that are up, except for loopback.
    pub fn interfaces(&self) -> Result<Vec<u32>, NetlinkError> {
        let links: Vec<LinkMessage> = self.request(
            "list the pod's interfaces",
            self.handle.link().get().execute().try_collect(),
        )?;
        Ok(links
            .into_iter()
            .filter(|link| link.header.flags.contains(LinkFlags::Up))
            .map(|link| link.header.index)
            .filter(|&index| index != LOOPBACK_INTERFACE)
            .collect())
    }

    pub fn bring_loopback_up(&self) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(LOOPBACK_INTERFACE).up().build();
        self.request(
            "bring the pod's loopback interface up",
            self.handle.link().set(link).execute(),
        )
    }
}

impl NetlinkError {
    pub fn is_exists(&self) -> bool {
        self.error.kind() == io::ErrorKind::AlreadyExists
    }
}

pub fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
