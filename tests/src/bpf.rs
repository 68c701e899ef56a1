//! Loads and attaches programs as other owners of eBPF on a node do (a CNI, a socket load balancer), with
//! bpf(2) alone: the tests need neither a compiler for such programs nor the loader of the daemon under test.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};

use crate::namespace::Netns;

/// One instruction (`struct bpf_insn`), assembled.
pub type Instruction = [u8; 8];

// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_QUERY: libc::c_int = 16;
const OBJ_GET: libc::c_int = 7;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_SOCKMAP: u32 = 15;

/// More programs than any hook of a test has.
const MOST_PROGRAMS: usize = 64;

/// A program's type and the hook that it attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Connect4,
    Connect6,
    SockOps,
    SkLookup,
    /// tc on an interface, by link (Linux 6.6).
    TcxIngress,
    TcxEgress,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Cgroup(&'a Path),
    Netns(&'a Netns),
    /// An interface of a namespace, by its index.
    Interface(&'a Netns, u32),
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    hook: Hook,
    fd: OwnedFd,
}

/// An attached program; dropping it takes it off.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// An array with one value: a number, or a socket.
#[derive(Debug)]
pub struct Slot(OwnedFd);

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    former: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    /// From Linux 6.6 on the kernel writes here, however short the caller says that this is.
    since_6_6: [u64; 4],
}

impl Hook {
    fn program_type(self) -> u32 {
        match self {
            Self::TcxIngress | Self::TcxEgress => 3,
            Self::SockOps => 13,
            Self::Connect4 | Self::Connect6 => 18,
            Self::SkLookup => 30,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::SockOps => 3,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::SkLookup => 36,
            Self::TcxIngress => 46,
            Self::TcxEgress => 47,
        }
    }
}

impl Program {
    pub fn load(hook: Hook, instructions: &[Instruction]) -> Result<Self> {
        let mut log = vec![0_u8; 1 << 16];
        let mut attributes = ProgramLoad {
            kind: hook.program_type(),
            instruction_count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: u32::try_from(log.len())?,
            log: log.as_mut_ptr() as u64,
            kernel_version: 0,
            flags: 0,
            name: *b"other_owner\0\0\0\0\0",
            interface: 0,
            expected_attach_type: hook.attach_type(),
        };
        // SAFETY: every pointer is to memory of the length beside it that outlives the call.
        let fd = unsafe { bpf(PROG_LOAD, &mut attributes) };
        let fd = fd.with_context(|| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or_default();
            let log = String::from_utf8_lossy(&log[..end]);
            format!("load a program for {hook:?}: {log}")
        })?;
        Ok(Self {
            hook,
            fd: owned(fd),
        })
    }

    /// Attaches the program by a link, as one of several.
    pub fn attach(&self, target: Target<'_>) -> Result<Attached> {
        let link = target.with(|target| {
            let mut attributes = LinkCreate {
                program: number(&self.fd),
                target,
                attach_type: self.hook.attach_type(),
                flags: 0,
            };
            // SAFETY: the attributes are what the command reads.
            unsafe { bpf(LINK_CREATE, &mut attributes) }
        })?;
        let link = link.with_context(|| format!("attach a program to {target:?}"))?;
        Ok(Attached { _link: owned(link) })
    }
}

/// Puts a program in the place of the one that the pinned link at `pin` attaches.
pub fn replace(pin: &Path, program: &Program) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjectGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a C string that outlives the call.
    let link = unsafe { bpf(OBJ_GET, &mut get) }.map(owned);
    let link = link.with_context(|| format!("open the link {}", pin.display()))?;
    let mut update = LinkUpdate {
        link: number(&link),
        program: number(&program.fd),
        flags: 0,
        former: 0,
    };
    // SAFETY: the attributes are what the command reads.
    unsafe { bpf(LINK_UPDATE, &mut update) }.context("replace a link's program")?;
    Ok(())
}

/// The IDs of the programs that are attached to exactly this target.
pub fn attached(hook: Hook, target: Target<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let count = target.with(|target| {
        let mut attributes = Query {
            target,
            attach_type: hook.attach_type(),
            flags: 0,
            attach_flags: 0,
            ids: ids.as_mut_ptr() as u64,
            count: u32::try_from(MOST_PROGRAMS).unwrap_or_default(),
            padding: 0,
            since_6_6: [0; 4],
        };
        // SAFETY: the kernel writes at most `count` IDs to memory for that many.
        unsafe { bpf(PROG_QUERY, &mut attributes) }.map(|_| attributes.count)
    })?;
    let count = count.with_context(|| format!("list the programs of {target:?}"))?;
    ids.truncate(usize::try_from(count)?);
    Ok(ids)
}

impl Slot {
    /// A number that programs count up.
    pub fn counter() -> Result<Self> {
        Self::create(MAP_TYPE_ARRAY)
    }

    /// A place for a listening socket.
    pub fn socket(listener: &impl AsRawFd) -> Result<Self> {
        let slot = Self::create(MAP_TYPE_SOCKMAP)?;
        let mut value = u64::try_from(listener.as_raw_fd())?;
        slot.element(MAP_UPDATE_ELEM, &mut value)
            .context("put a socket into a map")?;
        Ok(slot)
    }

    pub fn get(&self) -> Result<u64> {
        let mut value = 0;
        self.element(MAP_LOOKUP_ELEM, &mut value)
            .context("read a map")?;
        Ok(value)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn create(kind: u32) -> Result<Self> {
        let mut attributes = MapCreate {
            kind,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
        };
        // SAFETY: the attributes are what the command reads.
        let fd = unsafe { bpf(MAP_CREATE, &mut attributes) }.context("create a map")?;
        Ok(Self(owned(fd)))
    }

    fn element(&self, command: libc::c_int, value: &mut u64) -> io::Result<()> {
        let key = 0_u32;
        let mut attributes = Element {
            map: number(&self.0),
            padding: 0,
            key: (&raw const key) as u64,
            value: std::ptr::from_mut(value) as u64,
            flags: 0,
        };
        // SAFETY: key and value are as long as the map's.
        unsafe { bpf(command, &mut attributes) }.map(drop)
    }
}

impl Target<'_> {
    /// Hands `action` what bpf(2) knows the target by.
    fn with<T: Send>(self, action: impl FnOnce(u32) -> T + Send) -> Result<T> {
        match self {
            Self::Cgroup(path) => {
                let directory =
                    File::open(path).with_context(|| format!("open {}", path.display()))?;
                Ok(action(number(&directory)))
            }
            Self::Netns(netns) => Ok(action(number(netns.file()))),
            Self::Interface(netns, index) => netns.run(|| action(index)),
        }
    }
}

fn number(descriptor: &impl AsRawFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` is what `command` reads, and what it points to is valid for the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    RawFd::try_from(nix::errno::Errno::result(result)?).map_err(io::Error::other)
}
