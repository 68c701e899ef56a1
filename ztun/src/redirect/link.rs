//! Pinned links: what they are attached to, and taking them off at once.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::bpf::{bpf, tag_of_program};

// Commands of bpf(2).
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_DETACH: libc::c_int = 34;

// `enum bpf_link_type`.
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_NETNS: u32 = 5;

/// A pinned link.
pub struct PinnedLink(OwnedFd);

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The cgroup with this id.
    Cgroup(u64),
    /// The network namespace with this inode.
    Netns(u64),
    /// It was detached, or what it was attached to is gone.
    Nothing,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// A cgroup's id (8 bytes), or a network namespace's inode (4 bytes) and the attach type.
    target: [u32; 2],
    rest: [u32; 2],
}

impl LinkInfo {
    #[allow(clippy::cast_possible_truncation)] // 32
    const LENGTH: u32 = size_of::<Self>() as u32;
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    fd: u32,
}

impl PinnedLink {
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = ObjectGet {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        };
        // SAFETY: the path is a C string that outlives the call.
        let fd = unsafe { bpf(BPF_OBJ_GET, &mut attributes) }?;
        // SAFETY: the kernel made this descriptor for us alone, closed on exec.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn attachment(&self) -> io::Result<Attachment> {
        let info = self.info()?;
        let [low, high] = info.target.map(u64::from);
        Ok(match info.kind {
            BPF_LINK_TYPE_CGROUP => match cgroup_id(low, high) {
                0 => Attachment::Nothing,
                id => Attachment::Cgroup(id),
            },
            BPF_LINK_TYPE_NETNS if low != 0 => Attachment::Netns(low),
            _ => Attachment::Nothing,
        })
    }

    /// What the instructions of the link's program are known by.
    pub fn tag(&self) -> io::Result<u64> {
        tag_of_program(self.info()?.program)
    }

    fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        let mut attributes = InfoByFd {
            fd: self.0.as_raw_fd().cast_unsigned(),
            length: LinkInfo::LENGTH,
            info: (&raw mut info) as u64,
        };
        // SAFETY: the kernel writes at most `length` bytes to `info`, which is as long.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
        Ok(info)
    }

    /// Takes the link off. Removing its pin would do so too, but only later.
    pub fn detach(&self) -> io::Result<()> {
        let mut attributes = LinkDetach {
            fd: self.0.as_raw_fd().cast_unsigned(),
        };
        // SAFETY: the attributes are what the command reads.
        unsafe { bpf(BPF_LINK_DETACH, &mut attributes) }?;
        Ok(())
    }
}

fn cgroup_id(first: u64, second: u64) -> u64 {
    if cfg!(target_endian = "little") {
        second << 32 | first
    } else {
        first << 32 | second
    }
}
