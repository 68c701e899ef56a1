// SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0
//! The maps of one pod, and the node's `PROBES`.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get,
    },
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, SockHash},
};
use ztun_common::{
    Address, Endpoint, Flow, ListenerKey, MAX_ADDRESSES, MAX_PROBES, MAX_REWRITTEN, Verdict,
};

/// The daemon's listeners in the pod; the kernel takes out what is closed.
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(ListenerKey::COUNT, 0);

/// The pod's own addresses.
#[map]
static ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(MAX_ADDRESSES, 0);

/// How often each verdict was given.
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

/// Where the application of each connecting socket asked to go.
#[btf_map]
static ASKED: SkStorage<Endpoint> = SkStorage::new();

/// Where the applications of rewritten connections asked to go, until the daemon takes it. Not
/// preallocated: on most nodes it stays empty.
#[map]
pub static REWRITTEN: HashMap<Flow, Endpoint> =
    HashMap::with_max_entries(MAX_REWRITTEN, BPF_F_NO_PREALLOC);

/// Not 0 once a connection was rewritten. The daemon reads it with no system call.
#[map]
static ANY_REWRITTEN: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The connections that the node's kubelet has open: one map for all pods.
#[map]
pub static PROBES: HashMap<Flow, u8> = HashMap::with_max_entries(MAX_PROBES, BPF_F_NO_PREALLOC);

#[inline(always)]
pub fn is_probe(flow: &Flow) -> bool {
    PROBES.get_ptr(flow).is_some()
}

#[inline(always)]
pub fn put_asked(socket: *mut bpf_sock, asked: &Endpoint) {
    // SAFETY: the socket lives as long as the context that it is from.
    let stored = unsafe {
        bpf_sk_storage_get(
            asked_map(),
            socket.cast(),
            ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    // Without memory for it, a connection that is rewritten goes where it was rewritten to.
    if !stored.is_null() {
        // SAFETY: the kernel made room for a value, and only this connect() writes it.
        unsafe { stored.cast::<Endpoint>().write(*asked) };
    }
}

#[inline(always)]
fn asked_map() -> *mut c_void {
    ptr::from_ref(&ASKED).cast_mut().cast()
}

/// What `put_asked` stored; it is stored no longer.
#[inline(always)]
pub fn take_asked(socket: *mut bpf_sock) -> Option<Endpoint> {
    // SAFETY: the socket lives as long as the context that it is from, and so does a stored value
    // until it is deleted.
    unsafe {
        let stored = bpf_sk_storage_get(asked_map(), socket.cast(), ptr::null_mut(), 0);
        if stored.is_null() {
            return None;
        }
        let asked = stored.cast::<Endpoint>().read();
        bpf_sk_storage_delete(asked_map(), socket.cast());
        Some(asked)
    }
}

#[inline(always)]
pub fn note_rewritten(flow: &Flow, asked: &Endpoint) {
    if REWRITTEN.insert(flow, asked, 0).is_err() {
        count(Verdict::RewriteLost);
        return;
    }
    if let Some(any) = ANY_REWRITTEN.get_ptr_mut(0) {
        // SAFETY: the pointer is to the array's only value, of which nobody reads more than
        // whether it is 0.
        unsafe { any.write_volatile(1) };
    }
    count(Verdict::Rewritten);
}

/// Makes sure that a connection which nobody rewrote is not taken for an earlier one with the same
/// ends.
#[inline(always)]
pub fn forget_rewritten(flow: &Flow) {
    let any = ANY_REWRITTEN.get(0).copied().unwrap_or_default();
    if any != 0 {
        let _ = REWRITTEN.remove(flow);
    }
}

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
