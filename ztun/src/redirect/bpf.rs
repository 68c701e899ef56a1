//! bpf(2), and those of its commands that the loader has not.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_LINK_CREATE: libc::c_int = 28;

/// One instruction (`struct bpf_insn`), assembled.
pub type Instruction = [u8; 8];

/// The part of `union bpf_attr` that the commands on a map's elements read.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
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

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_GET_FD_BY_ID` reads.
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
}

/// Reads an element of a hash map and deletes it, as one step; fails where there is none.
///
/// `KEY` and `VALUE` are the sizes of the map's.
pub fn lookup_and_delete<const KEY: usize, const VALUE: usize>(
    map: &OwnedFd,
    key: &[u8; KEY],
    value: &mut [u8; VALUE],
) -> io::Result<()> {
    let mut attributes = Element {
        map: number(map.as_raw_fd()),
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the key is read and the value written in the map's sizes, which are theirs.
    unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes) }?;
    Ok(())
}

/// Makes a map with one entry: a key of 4 bytes, a value of 8.
pub fn create_map(kind: u32) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
    };
    // SAFETY: the attributes are what the command reads.
    unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }.map(owned)
}

/// Loads a program; `EACCES` and `EINVAL` are the verifier's refusal.
pub fn load_program(
    kind: u32,
    expected_attach_type: u32,
    instructions: &[Instruction],
) -> io::Result<OwnedFd> {
    let mut attributes = ProgramLoad {
        kind,
        instruction_count: instructions.len().try_into().map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"ztun_probe\0\0\0\0\0\0",
        interface: 0,
        expected_attach_type,
    };
    // SAFETY: the pointers are to memory of the length beside them that outlives the call.
    unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.map(owned)
}

/// Attaches a program to what the descriptor `target` stands for.
pub fn create_link(program: &OwnedFd, target: RawFd, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: number(program.as_raw_fd()),
        target: number(target),
        attach_type,
        flags: 0,
    };
    // SAFETY: the attributes are what the command reads.
    unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }.map(owned)
}

/// The bytes of machine code that a program became; 0 if it is interpreted.
pub fn jited_length(program: &OwnedFd) -> io::Result<u32> {
    Ok(program_info(program)?.jited_length)
}

/// What a loaded program's instructions are known by, whichever maps it uses.
pub fn tag_of_program(id: u32) -> io::Result<u64> {
    let mut attributes = ById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: the attributes are what the command reads.
    let program = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes) }.map(owned)?;
    Ok(u64::from_be_bytes(program_info(&program)?.tag))
}

fn program_info(program: &OwnedFd) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    let mut attributes = InfoByFd {
        fd: number(program.as_raw_fd()),
        length: size_of::<ProgramInfo>()
            .try_into()
            .map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is as long.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// Calls `bpf(2)`.
///
/// # Safety
/// `attributes` is what `command` reads, and what it points to is valid for the call.
pub unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors and zero fit.
    #[allow(clippy::cast_possible_truncation)]
    Ok(result as RawFd)
}

fn number(descriptor: RawFd) -> u32 {
    descriptor.cast_unsigned()
}

fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us alone, closed on exec.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
