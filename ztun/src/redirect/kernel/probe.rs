//! Tries features of the running kernel, with programs of a few instructions.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use nix::sys::utsname::uname;

use super::{
    super::{
        bpf::{Instruction, create_link, create_map, jited_length, load_program},
        hierarchy::{self, HierarchyError},
        programs::{ProgramsError, verify_all},
    },
    Feature, Finding,
};

// `enum bpf_prog_type`.
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;
const SK_LOOKUP: u32 = 30;

// `enum bpf_attach_type`.
const AT_SOCK_OPS: u32 = 3;
const AT_CONNECT4: u32 = 10;
const AT_SK_LOOKUP: u32 = 36;

/// `BPF_MAP_TYPE_SOCKHASH`
const SOCKHASH: u32 = 18;

// Helper functions.
const MAP_LOOKUP_ELEM: i32 = 1;
const SETSOCKOPT: i32 = 49;
const SK_RELEASE: i32 = 86;

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Of `struct bpf_sk_lookup`.
const INGRESS_IFINDEX: i16 = 64;

const FRAME: u8 = 10;

const RETURN_ALLOW: [Instruction; 2] = [set(0, 1), code(0x95, 0, 0, 0, 0)];

/// As uname(2) has it.
pub fn release() -> String {
    uname().map_or_else(
        |_| "unknown".to_owned(),
        |uname| uname.release().to_string_lossy().into_owned(),
    )
}

pub fn probe(feature: Feature) -> Finding {
    let tried = match feature {
        Feature::CgroupV2 => return cgroup_v2(),
        Feature::Programs => return own_programs(),
        Feature::Bpffs => bpffs(),
        Feature::Jit => jit(),
        Feature::ConnectPrograms => connect(&[]).map(drop),
        Feature::MarkInConnect => connect(&mark()).map(drop),
        Feature::ListenerLookup => listener_lookup(),
        Feature::SockOps => load_program(SOCK_OPS, AT_SOCK_OPS, &RETURN_ALLOW).map(drop),
        Feature::CgroupLinks => connect(&[]).and_then(|program| links(&program, AT_CONNECT4)),
        Feature::SkLookup => sk_lookup(&[]).map(drop),
        Feature::NetnsLinks => sk_lookup(&[]).and_then(|program| links(&program, AT_SK_LOOKUP)),
        Feature::IngressInterface => sk_lookup(&[load_word(1, 1, INGRESS_IFINDEX)]).map(drop),
    };
    judge(tried)
}

fn judge(tried: io::Result<()>) -> Finding {
    match tried {
        Ok(()) => Finding::Found,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Finding::Unknown(format!("{error}; it takes root to try it"))
        }
        Err(error) => Finding::Missing(error.to_string()),
    }
}

fn cgroup_v2() -> Finding {
    match hierarchy::root() {
        Ok(_) => Finding::Found,
        Err(error @ HierarchyError::NotMounted) => Finding::Missing(error.to_string()),
        Err(error @ HierarchyError::Mountinfo(_)) => Finding::Unknown(error.to_string()),
    }
}

fn own_programs() -> Finding {
    if let unknown @ Finding::Unknown(_) = probe(Feature::ConnectPrograms) {
        return unknown;
    }
    let reports = match verify_all() {
        Ok(reports) => reports,
        Err(error @ ProgramsError::NotBuilt) => return Finding::Unknown(error.to_string()),
        Err(error) => return Finding::Missing(error.to_string()),
    };
    let refused: Vec<&str> = reports
        .iter()
        .filter(|report| report.verdict.is_err())
        .map(|report| report.name)
        .collect();
    if refused.is_empty() {
        Finding::Found
    } else {
        Finding::Missing(format!(
            "{} refused; `ztun programs` shows the verifier's log",
            refused.join(", ")
        ))
    }
}

fn bpffs() -> io::Result<()> {
    let filesystems = fs::read_to_string("/proc/filesystems")?;
    let has = |line: &str| line.split_whitespace().next_back() == Some("bpf");
    if filesystems.lines().any(has) {
        return Ok(());
    }
    Err(io::ErrorKind::Unsupported.into())
}

fn jit() -> io::Result<()> {
    if jited_length(&connect(&[])?)? > 0 {
        return Ok(());
    }
    Err(io::Error::other(
        "programs are interpreted; set net.core.bpf_jit_enable=1",
    ))
}

fn listener_lookup() -> io::Result<()> {
    let listeners = create_map(SOCKHASH)?;
    connect(&lookup(listeners.as_raw_fd())).map(drop)
}

/// Asks for a link to nothing: a kernel that knows such links says that it found nothing there.
fn links(program: &OwnedFd, attach_type: u32) -> io::Result<()> {
    const NOTHING: RawFd = -1;
    match create_link(program, NOTHING, attach_type) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
        other => other.map(drop),
    }
}

fn connect(body: &[Instruction]) -> io::Result<OwnedFd> {
    load_program(
        CGROUP_SOCK_ADDR,
        AT_CONNECT4,
        &[body, &RETURN_ALLOW].concat(),
    )
}

fn sk_lookup(body: &[Instruction]) -> io::Result<OwnedFd> {
    load_program(SK_LOOKUP, AT_SK_LOOKUP, &[body, &RETURN_ALLOW].concat())
}

/// `setsockopt(context, SOL_SOCKET, SO_MARK, &0, 4)`
fn mark() -> [Instruction; 7] {
    [
        store_zero(-4),
        set(2, SOL_SOCKET),
        set(3, SO_MARK),
        copy(4, FRAME),
        add(4, -4),
        set(5, 4),
        call(SETSOCKOPT),
    ]
}

/// Finds a socket in the map, and lets go of it.
fn lookup(map: RawFd) -> [Instruction; 9] {
    const MAP_BY_DESCRIPTOR: u8 = 1;
    [
        store_zero(-4),
        code(0x18, 1, MAP_BY_DESCRIPTOR, 0, map),
        code(0, 0, 0, 0, 0),
        copy(2, FRAME),
        add(2, -4),
        call(MAP_LOOKUP_ELEM),
        // Over the next two, if there is none.
        code(0x15, 0, 0, 2, 0),
        copy(1, 0),
        call(SK_RELEASE),
    ]
}

const fn set(register: u8, value: i32) -> Instruction {
    code(0xb7, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> Instruction {
    code(0xbf, to, from, 0, 0)
}

const fn add(register: u8, value: i32) -> Instruction {
    code(0x07, register, 0, 0, value)
}

const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    code(0x61, to, from, offset, 0)
}

/// Writes a word of the stack.
const fn store_zero(offset: i16) -> Instruction {
    code(0x62, FRAME, 0, offset, 0)
}

const fn call(helper: i32) -> Instruction {
    code(0x85, 0, 0, 0, helper)
}

const fn code(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        from << 4 | to
    } else {
        to << 4 | from
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    [operation, registers, o0, o1, v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn what_a_kernel_has_not_is_missing_and_what_it_does_not_let_us_try_is_unknown() {
        if !geteuid().is_root() {
            let finding = probe(Feature::MarkInConnect);
            assert!(matches!(finding, Finding::Unknown(_)), "{finding:?}");
            return;
        }
        // No context is as long.
        let refused = sk_lookup(&[load_word(1, 1, 4096)]);
        assert!(refused.is_err_and(|error| error.raw_os_error() != Some(libc::EPERM)));
    }

    #[test]
    fn a_kernel_that_takes_the_programs_has_every_feature() {
        if own_programs() != Finding::Found {
            return;
        }
        for feature in Feature::ALL {
            if feature.is_required() {
                assert_eq!(probe(feature), Finding::Found, "{feature:?}");
            }
        }
    }
}
