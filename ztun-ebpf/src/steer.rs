// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{
        BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    macros::sk_lookup,
    programs::SkLookupContext,
};
use ztun_common::{Address, Lookup, Steer, Verdict};

use crate::maps::{self, LISTENERS};

const AF_INET: u32 = 2;

/// Gives connections that arrive at the pod's network namespace to the daemon's listeners.
///
/// Minimum kernel: 5.17 (`ingress_ifindex`).
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    // SAFETY: the context is valid for the program's run.
    let lookup = unsafe { read(ctx.lookup) };
    let Steer::To(listener, key) = ztun_common::steer(&lookup, maps::is_own) else {
        return SK_PASS;
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

/// Reads every field whatever the family is: LLVM would otherwise merge the reads of both arms
/// through a computed context pointer, which the verifier refuses.
#[inline(always)]
unsafe fn read(ctx: *const bpf_sk_lookup) -> Lookup {
    macro_rules! field {
        ($($field:tt)+) => {
            // SAFETY: the caller's context is valid.
            unsafe { read_volatile(&raw const (*ctx).$($field)+) }
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
    Lookup {
        protocol: field!(protocol),
        local,
        local_port: field!(local_port),
        remote,
        ingress_interface: field!(ingress_ifindex),
    }
}
