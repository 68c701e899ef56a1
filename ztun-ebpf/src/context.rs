// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! Reading the fields of contexts that show a connection's two ends.

use ztun_common::Address;

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
        use $crate::context::{address, field};
        let (local4, remote4) = (field!($context, local_ip4), field!($context, remote_ip4));
        let local6 = [
            field!($context, local_ip6[0]),
            field!($context, local_ip6[1]),
            field!($context, local_ip6[2]),
            field!($context, local_ip6[3]),
        ];
        let remote6 = [
            field!($context, remote_ip6[0]),
            field!($context, remote_ip6[1]),
            field!($context, remote_ip6[2]),
            field!($context, remote_ip6[3]),
        ];
        let family = field!($context, family);
        (
            address(family, local4, local6),
            address(family, remote4, remote6),
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
