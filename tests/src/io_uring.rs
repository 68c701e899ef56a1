//! Connects a socket by way of `io_uring`, with its system calls alone.
#![allow(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::errno::Errno;
use socket2::SockAddr;

// From `linux/io_uring.h`.
const OFFSET_SUBMISSIONS: libc::off_t = 0;
const OFFSET_COMPLETIONS: libc::off_t = 0x0800_0000;
const OFFSET_ENTRIES: libc::off_t = 0x1000_0000;
const ENTER_GETEVENTS: libc::c_uint = 1;
const OP_CONNECT: u8 = 16;

/// More than the rings of one entry take.
const RING_LENGTH: usize = 4096;

/// `struct io_uring_params`
#[repr(C)]
#[derive(Default)]
struct Parameters {
    submission_entries: u32,
    completion_entries: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    work_queue: u32,
    reserved: [u32; 3],
    submissions: Offsets,
    completions: Offsets,
}

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`, as far as they agree but for `array`, which is
/// `cqes` in the latter one place earlier.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    fields: [u32; 6],
}

/// `struct io_uring_sqe`, as far as `IORING_OP_CONNECT` reads it.
#[repr(C)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    descriptor: i32,
    /// The address's length.
    offset: u64,
    address: u64,
    rest: [u64; 5],
}

struct Mapping(*mut libc::c_void);

/// Says why this machine can't run what needs `io_uring`.
pub fn is_available() -> Result<(), String> {
    setup(&mut Parameters::default())
        .map(drop)
        .map_err(|error| format!("needs io_uring: {error}"))
}

/// Connects a blocking socket.
pub fn connect(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    let mut parameters = Parameters::default();
    let ring = setup(&mut parameters)?;
    let submissions = Mapping::of(&ring, OFFSET_SUBMISSIONS)?;
    let completions = Mapping::of(&ring, OFFSET_COMPLETIONS)?;
    let entries = Mapping::of(&ring, OFFSET_ENTRIES)?;
    let address = SockAddr::from(to);
    let submission = Submission {
        operation: OP_CONNECT,
        flags: 0,
        priority: 0,
        descriptor: socket.as_raw_fd(),
        offset: address.len().into(),
        address: address.as_ptr() as u64,
        rest: [0; 5],
    };
    let array = parameters.submissions.fields[2];
    // SAFETY: the offsets are the kernel's own, into rings that are mapped; a new ring is empty, so that its
    // first entry is nobody else's, and the kernel reads it only when it is entered.
    unsafe {
        entries.0.cast::<Submission>().write(submission);
        submissions.word(array).write(0);
        let tail = &*submissions
            .word(parameters.submissions.tail)
            .cast::<AtomicU32>();
        tail.store(1, Ordering::Release);
    }
    enter(&ring)?;
    // `struct io_uring_cqe` is the request's data (8 bytes), then its result.
    let result = parameters.completions.fields[1] + 8;
    // SAFETY: the call has waited for the only completion; the offset is the kernel's.
    let result = unsafe { completions.word(result).cast::<i32>().read_volatile() };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}

fn setup(parameters: &mut Parameters) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads and fills the parameters, which are as long as it expects.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, ptr::from_mut(parameters)) };
    let ring = RawFd::try_from(Errno::result(ring)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(ring) })
}

/// Submits one request and waits for its completion.
fn enter(ring: &OwnedFd) -> io::Result<()> {
    // SAFETY: there is no signal mask, and the rings are mapped.
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1,
            1,
            ENTER_GETEVENTS,
            ptr::null::<libc::sigset_t>(),
            size_of::<libc::sigset_t>(),
        )
    };
    Errno::result(entered)?;
    Ok(())
}

impl Mapping {
    fn of(ring: &OwnedFd, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RING_LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                ring.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(address))
    }

    /// # Safety
    /// `offset` lies within the mapping.
    unsafe fn word(&self, offset: u32) -> *mut u32 {
        // SAFETY: the caller's; the kernel aligns the fields of its rings.
        unsafe { self.0.byte_add(offset as usize) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, of that length.
        let unmapped = unsafe { libc::munmap(self.0, RING_LENGTH) };
        debug_assert_eq!(unmapped, 0);
    }
}
