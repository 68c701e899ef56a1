// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use core::ptr::read_volatile;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ztun_common::Address;

/// Captures `connect()` of IPv4 sockets, on the pod's cgroup.
///
/// Minimum kernel: 5.8 (a listener looked up, and the mark set, by a cgroup program), 6.1 with `steer`.
#[cgroup_sock_addr(connect4)]
pub fn capture4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid for the program's run.
    let destination = unsafe { read_volatile(&raw const (*ctx.sock_addr).user_ip4) };
    crate::connect::connect(&ctx, Address::from_v4_word(destination))
}
