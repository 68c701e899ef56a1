// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE,
    },
    helpers::generated::bpf_get_netns_cookie,
    macros::sock_ops,
    programs::SockOpsContext,
};
use ztun_common::Flow;

use crate::{context::ends, maps::PROBES};

/// The node's own network namespace (`SO_NETNS_COOKIE`), which the daemon fills in.
#[unsafe(no_mangle)]
static NODE_NETNS: u64 = 0;

/// Records the connections that the node's kubelet opens, before their first packet leaves and until
/// their port is free again: `steer` lets exactly those through to the pods.
///
/// It is attached to the kubelet's cgroup. A pod below that, which has a network namespace of its
/// own, doesn't count.
///
/// Minimum kernel: 5.15 (`bpf_get_netns_cookie` here), 6.1 with `steer`.
#[sock_ops]
pub fn probe(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB if is_of_node(&ctx) => {
            let (kubelet, pod) = ends(&ctx);
            // Without room for it, it is judged like everybody's.
            if PROBES.insert(Flow::new(kubelet, pod), 1, 0).is_ok() {
                let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
                let _ = ctx.set_cb_flags(flags as i32);
            }
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            let (kubelet, pod) = ends(&ctx);
            let _ = PROBES.remove(Flow::new(kubelet, pod));
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn is_of_node(ctx: &SockOpsContext) -> bool {
    // SAFETY: the variable is read-only data; volatile because the daemon fills it in after the
    // compiler has seen a 0. The context is valid for the program's run.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == read_volatile(&raw const NODE_NETNS) }
}
