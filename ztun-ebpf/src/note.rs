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
use ztun_common::{Flow, Note, Opening, Verdict};

use crate::{
    connect,
    context::ends,
    maps::{self, REWRITTEN},
};

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
