// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! Kernel programs that capture a pod's TCP connections; each pod has programs and maps of its own.
//! One more, `probe`, is for the node.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

mod capture4;
mod capture6;
mod connect;
mod context;
mod maps;
mod note;
mod probe;
mod steer;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The verifier wants a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
