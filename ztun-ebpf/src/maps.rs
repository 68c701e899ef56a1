// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! The maps of one pod.

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_release},
    macros::map,
    maps::{HashMap, PerCpuArray, SockHash},
};
use ztun_common::{Address, ListenerKey, MAX_ADDRESSES, Verdict};

/// The daemon's listeners in the pod; the kernel takes out what is closed.
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(ListenerKey::COUNT, 0);

/// The pod's own addresses.
#[map]
static ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(MAX_ADDRESSES, 0);

/// How often each verdict was given.
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

#[inline(always)]
pub fn is_own(address: &Address) -> bool {
    ADDRESSES.get_ptr(address).is_some()
}

#[inline(always)]
pub fn is_listening(mut key: ListenerKey) -> bool {
    // SAFETY: the map and the key are valid for the call. A socket that is found is held until it
    // is released, which happens at once.
    unsafe {
        let socket = bpf_map_lookup_elem(
            ptr::from_ref(&LISTENERS).cast_mut().cast(),
            (&raw mut key).cast(),
        );
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
    }
    true
}

#[inline(always)]
pub fn count(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict.index()) {
        // SAFETY: the pointer is to this processor's slot, which nothing else writes meanwhile.
        unsafe { *counter += 1 };
    }
}
