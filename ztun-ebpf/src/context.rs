// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! Reading the fields of contexts that show a connection's two ends.

use aya_ebpf::programs::SockOpsContext;
use ztun_common::{Address, Endpoint};

const AF_INET: u32 = 2;

/// One field of the context. LLVM would merge plain reads into ones that the verifier refuses.
///
/// Safety: the context must be valid, which it is for the program's run.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}

/// The local and the remote address. Both families' fields are read whatever the family is: LLVM
/// would otherwise reach those of one arm through a computed context pointer, which the verifier
/// refuses too.
///
/// Safety: as that of `field`.
macro_rules! addresses {
    ($context:expr) => {{
        let local4 = $crate::context::field!($context, local_ip4);
        let remote4 = $crate::context::field!($context, remote_ip4);
        let local6 = [
            $crate::context::field!($context, local_ip6[0]),
            $crate::context::field!($context, local_ip6[1]),
            $crate::context::field!($context, local_ip6[2]),
            $crate::context::field!($context, local_ip6[3]),
        ];
        let remote6 = [
            $crate::context::field!($context, remote_ip6[0]),
            $crate::context::field!($context, remote_ip6[1]),
            $crate::context::field!($context, remote_ip6[2]),
            $crate::context::field!($context, remote_ip6[3]),
        ];
        let family = $crate::context::field!($context, family);
        (
            $crate::context::address(family, local4, local6),
            $crate::context::address(family, remote4, remote6),
        )
    }};
}

pub(crate) use {addresses, field};

#[inline(always)]
pub fn address(family: u32, v4: u32, v6: [u32; 4]) -> Address {
    if family == AF_INET {
        Address::from_v4_word(v4)
    } else {
        Address::from_v6_words(v6)
    }
}

/// The socket's own end and its peer's.
#[inline(always)]
pub fn ends(ctx: &SockOpsContext) -> (Endpoint, Endpoint) {
    // SAFETY: the context is valid for the program's run.
    let (local, remote) = addresses!(ctx.ops);
    // The context has the local port in host order, and the remote one in network order.
    let local_port = field!(ctx.ops, local_port);
    let remote_port = u32::from_be(field!(ctx.ops, remote_port));
    (
        Endpoint::new(local, local_port as u16),
        Endpoint::new(remote, remote_port as u16),
    )
}
