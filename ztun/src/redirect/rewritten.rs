//! Connections of a pod that another owner's program sent elsewhere than the application asked.
#![allow(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::maps::{Map, MapData};
use ztun_common::{Address, Endpoint, Flow};

use super::{bpf::lookup_and_delete, pins::Generation};

/// A pod's map of rewritten connections, which `note` fills.
#[derive(Debug)]
pub struct Rewritten {
    any: Flag,
    flows: OwnedFd,
}

/// The kernel program's flag in shared memory.
#[derive(Debug)]
struct Flag(NonNull<AtomicU32>);

// SAFETY: it is an atomic in memory that stays mapped until it is dropped.
unsafe impl Send for Flag {}
// SAFETY: as above.
unsafe impl Sync for Flag {}

impl Rewritten {
    /// From the pod's pinned maps.
    pub fn of_generation(generation: &Generation) -> io::Result<Self> {
        let map = |name| MapData::from_pin(generation.path(name)).map_err(io::Error::other);
        let any = Map::Array(map("ANY_REWRITTEN")?);
        Self::open(&any, &Map::HashMap(map("REWRITTEN")?))
    }

    /// From the pod's maps `ANY_REWRITTEN` and `REWRITTEN`.
    pub fn open(any: &Map, flows: &Map) -> io::Result<Self> {
        let (Map::Array(any), Map::HashMap(flows)) = (any, flows) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Self {
            any: Flag::map(any)?,
            flows: flows.fd().as_fd().try_clone_to_owned()?,
        })
    }

    /// Where the application asked to go, if it was sent to `server` instead. Answers once.
    ///
    /// A system call, but none as long as nothing was ever rewritten in this pod.
    pub fn take(&self, client: SocketAddr, server: SocketAddr) -> Option<SocketAddr> {
        if !self.any.is_set() {
            return None;
        }
        let key = Flow::new(endpoint(client), endpoint(server)).to_bytes();
        let mut value = [0; Endpoint::SIZE];
        lookup_and_delete(&self.flows, &key, &mut value).ok()?;
        let (address, port) = value.split_first_chunk::<16>()?;
        let port = u32::from_ne_bytes(port.try_into().ok()?);
        let ip = Address::from(*address).into();
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
    }
}

impl Flag {
    const LENGTH: usize = size_of::<AtomicU32>();

    fn map(array: &MapData) -> io::Result<Self> {
        // SAFETY: a new mapping, of a map that the kernel lets be mapped, at an address of its
        // choice. The kernel rounds the length up to a page, as it does for the array itself.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ,
                libc::MAP_SHARED,
                array.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(io::Error::last_os_error)
    }

    fn is_set(&self) -> bool {
        // SAFETY: the memory is mapped as long as this lives, and page-aligned.
        unsafe { self.0.as_ref() }.load(Ordering::Acquire) != 0
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, of that length.
        let unmapped = unsafe { libc::munmap(self.0.as_ptr().cast(), Self::LENGTH) };
        debug_assert_eq!(unmapped, 0);
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip().into(), address.port())
}
