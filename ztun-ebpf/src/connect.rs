// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! What capture4 and capture6 have in common.

use core::{ffi::c_void, ptr::read_volatile};

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_setsockopt, programs::SockAddrContext};
use ztun_common::{
    Address, Capture, Connect, Endpoint, Listener, ListenerKey, MARK, Refusal, Verdict, capture,
};

use crate::maps;

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// A cgroup program's answers to `connect()`.
const ALLOW: i32 = 1;
const EPERM: i32 = 0;

#[inline(always)]
pub fn connect(ctx: &SockAddrContext, destination: Address) -> i32 {
    // SAFETY: the context is valid for the program's run. The reads are volatile because the
    // verifier refuses the merged ones that LLVM would make of them.
    let (protocol, port, socket) = unsafe {
        (
            read_volatile(&raw const (*ctx.sock_addr).protocol),
            read_volatile(&raw const (*ctx.sock_addr).user_port),
            (*ctx.sock_addr).__bindgen_anon_1.sk,
        )
    };
    if socket.is_null() {
        return EPERM;
    }
    // SAFETY: the socket was checked and lives as long as the context.
    let bound_interface = unsafe { read_volatile(&raw const (*socket).bound_dev_if) };

    let connect = Connect {
        protocol,
        destination,
        bound_interface,
    };
    let is_listening = |family| maps::is_listening(ListenerKey::new(Listener::Outbound, family));
    match capture(&connect, maps::is_own, is_listening) {
        Capture::Pass => ALLOW,
        Capture::Stay if mark(ctx.as_ptr()) => ALLOW,
        Capture::Mark if mark(ctx.as_ptr()) => {
            // In network order, in the lower half.
            let asked = Endpoint::new(destination, u16::from_be(port as u16));
            maps::put_asked(socket, &asked);
            maps::count(Verdict::Captured);
            ALLOW
        }
        Capture::Stay | Capture::Mark => refuse(Refusal::Mark),
        Capture::Refuse(refusal) => refuse(refusal),
    }
}

#[inline(always)]
fn refuse(refusal: Refusal) -> i32 {
    maps::count(refusal.into());
    EPERM
}

/// Marks the socket of a program's context, and with it all that it sends.
#[inline(always)]
pub fn mark(ctx: *mut c_void) -> bool {
    let mut mark = MARK;
    // SAFETY: the value is as long as the length says.
    let result = unsafe {
        bpf_setsockopt(
            ctx,
            SOL_SOCKET,
            SO_MARK,
            (&raw mut mark).cast(),
            size_of::<u32>() as i32,
        )
    };
    result == 0
}
