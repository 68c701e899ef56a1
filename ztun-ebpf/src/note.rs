// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE, bpf_sock,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use ztun_common::{Address, Endpoint, Flow, Note, Opening, Verdict};

use crate::{
    connect,
    maps::{self, REWRITTEN},
};

const AF_INET: u32 = 2;

/// Notes where a connection was going before another program (a CNI's socket load balancer on a
/// cgroup above the pod's) sent it elsewhere, and captures what such a program sends out of the pod
/// although the application asked for the pod itself.
///
/// Minimum kernel: 5.3 (socket storage for `capture` and here), 6.1 with `steer`.
#[sock_ops]
pub fn note(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opening(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => forget(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn opening(ctx: &SockOpsContext) {
    // SAFETY: the context is valid for the program's run.
    let socket: *mut bpf_sock = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: the socket was checked and lives as long as the context.
    let mark = unsafe { read_volatile(&raw const (*socket).mark) };
    let (client, server) = ends(ctx);
    let opening = Opening {
        asked: maps::take_asked(socket),
        server,
        mark,
    };
    match ztun_common::note(&opening, maps::is_own) {
        Note::Nothing => maps::forget_rewritten(&Flow::new(client, server)),
        Note::Escape => {
            // The route was chosen already; the mark makes the kernel choose again, before the
            // first packet.
            if connect::mark(ctx.as_ptr()) {
                maps::count(Verdict::EscapeCaptured);
            }
        }
        Note::Asked(asked) => {
            // The entry goes when the daemon takes it, or else with the socket.
            let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
            let _ = ctx.set_cb_flags(flags as i32);
            maps::note_rewritten(&Flow::new(client, server), &asked);
        }
    }
}

#[inline(always)]
fn forget(ctx: &SockOpsContext) {
    let (client, server) = ends(ctx);
    let _ = REWRITTEN.remove(Flow::new(client, server));
}

/// The socket's own end and its peer's.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> (Endpoint, Endpoint) {
    // SAFETY: the context is valid for the program's run. The reads are volatile because the
    // verifier refuses the merged ones that LLVM would make of them.
    macro_rules! field {
        ($($field:tt)+) => {
            unsafe { read_volatile(&raw const (*ctx.ops).$($field)+) }
        };
    }
    macro_rules! words {
        ($field:ident) => {
            [
                field!($field[0]),
                field!($field[1]),
                field!($field[2]),
                field!($field[3]),
            ]
        };
    }
    let (local4, remote4) = (field!(local_ip4), field!(remote_ip4));
    let (local6, remote6) = (words!(local_ip6), words!(remote_ip6));
    let (local, remote) = if field!(family) == AF_INET {
        (
            Address::from_v4_word(local4),
            Address::from_v4_word(remote4),
        )
    } else {
        (
            Address::from_v6_words(local6),
            Address::from_v6_words(remote6),
        )
    };
    // The context has the local port in host order, and the remote one in network order.
    let (local_port, remote_port) = (field!(local_port), u32::from_be(field!(remote_port)));
    (
        Endpoint::new(local, local_port as u16),
        Endpoint::new(remote, remote_port as u16),
    )
}
