// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use core::ptr::read_volatile;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ztun_common::Address;

/// Captures `connect()` of IPv6 sockets, to v4-mapped destinations too, on the pod's cgroup.
///
/// Minimum kernel: 5.8 (a listener looked up, and the mark set, by a cgroup program), 6.1 with `steer`.
#[cgroup_sock_addr(connect6)]
pub fn capture6(ctx: SockAddrContext) -> i32 {
    let ip = unsafe { &raw const (*ctx.sock_addr).user_ip6 };
    // SAFETY: the context is valid for the program's run; it is read word by word because the
    // verifier allows no wider access.
    let destination = unsafe {
        [
            read_volatile(&raw const (*ip)[0]),
            read_volatile(&raw const (*ip)[1]),
            read_volatile(&raw const (*ip)[2]),
            read_volatile(&raw const (*ip)[3]),
        ]
    };
    crate::connect::connect(&ctx, Address::from_v6_words(destination))
}
