//! Hearing from the kernel that a namespace's addresses or interfaces changed.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// An interface that comes up needs a route (`routes`), with an address or without.
const GROUPS: libc::c_int = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// The most messages that are taken for one change: who changes addresses without end must not
/// keep the reader here.
const MOST_MESSAGES: usize = 1024;

/// A subscription in one network namespace.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// Subscribes in the calling thread's namespace. What changes from now on is not missed.
    pub fn subscribe() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        // The kernel chooses the port.
        let address = NetlinkAddr::new(0, GROUPS.cast_unsigned());
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self(socket))
    }

    /// Waits until something may have changed since the last call. Cancelled, it loses nothing.
    pub async fn next(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self` is borrowed, which is longer.
        let socket =
            unsafe { AsyncFd::register_with_interest(self.0.as_fd(), Interest::READABLE) }?;
        let _ = socket.readable().await?;
        self.take()
    }

    /// Takes the messages that are there. What they say is read from the namespace, where it is
    /// whole and new; so nothing is lost when there were more than the socket holds (`ENOBUFS`).
    fn take(&self) -> io::Result<()> {
        for _ in 0..MOST_MESSAGES {
            match recv(self.0.as_raw_fd(), &mut [0], MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
