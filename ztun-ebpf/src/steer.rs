// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use aya_ebpf::{
    bindings::{
        BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    macros::sk_lookup,
    programs::SkLookupContext,
};
use ztun_common::{Lookup, Steer, Verdict};

use crate::{
    context::{addresses, field},
    maps::{self, LISTENERS},
};

/// Gives connections that arrive at the pod's network namespace to the daemon's listeners.
///
/// Minimum kernel: 5.17 (`ingress_ifindex`).
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let steer = ztun_common::steer(&read(ctx.lookup), maps::is_own, maps::is_probe);
    let (listener, key) = match steer {
        Steer::To(listener, key) => (listener, key),
        Steer::Probe => {
            maps::count(Verdict::ProbePassed);
            return SK_PASS;
        }
        Steer::Pass => return SK_PASS,
    };
    // Another owner's program may have chosen the application's socket already: that choice is for
    // the last hop.
    let replace = BPF_SK_LOOKUP_F_REPLACE.into();
    if LISTENERS.redirect_sk_lookup(&ctx, key, replace).is_err() {
        maps::count(Verdict::Dropped);
        return SK_DROP;
    }
    maps::count(listener.into());
    SK_PASS
}

#[inline(always)]
fn read(ctx: *const bpf_sk_lookup) -> Lookup {
    // SAFETY: the context is valid for the program's run.
    let (local, remote) = addresses!(ctx);
    Lookup {
        protocol: field!(ctx, protocol),
        local,
        local_port: field!(ctx, local_port),
        remote,
        remote_port: u16::from_be(field!(ctx, remote_port)),
        ingress_interface: field!(ctx, ingress_ifindex),
    }
}
