//! The kernel programs: loading a pod's own copies of them, and attaching those.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps,
        links::{FdLink, LinkError},
    },
};
use thiserror::Error;
use ztun_common::MAX_ADDRESSES;

use super::{
    cgroup::Cgroup,
    netns::{Netns, cookie as netns_cookie},
    pins::{Generation, LINKS, MAPS, NODE_PROGRAM, PinError},
    rewritten::Rewritten,
    with_causes,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ztun-ebpf"));

/// What the object is known by to later daemons.
pub const DIGEST: &str = env!("ZTUN_PROGRAMS_DIGEST");

/// What `probe` knows the node's own network namespace by.
static NODE_NETNS: OnceLock<u64> = OnceLock::new();

/// Loads the kernel programs.
pub struct Programs {
    shared: Vec<(&'static str, PathBuf)>,
    /// Made when it is first needed: it reads the kernel's types, which takes longer than a start
    /// may, before it can be told not to.
    loader: Mutex<Option<EbpfLoader<'static>>>,
}

/// One pod's programs and maps, loaded and not attached.
pub struct PodPrograms(Ebpf);

#[derive(Debug, Error)]
pub enum ProgramsError {
    #[error("this daemon was built without its kernel programs: build it with `cargo xtask build`")]
    NotBuilt,
    #[error("the pod has {0} addresses: capture takes up to {MAX_ADDRESSES}")]
    TooManyAddresses(usize),
    #[error(
        "cannot load the kernel programs: {0}; they need Linux 6.1 or newer, CAP_BPF and CAP_NET_ADMIN"
    )]
    Load(String),
    #[error(
        "the kernel refuses the program {program}: {reason}; it needs {}; `ztun programs` shows the verifier's log",
        needs(.program)
    )]
    Refused {
        program: &'static str,
        reason: String,
        log: String,
    },
    #[error("cannot attach the program {program}: {reason}")]
    Attach {
        program: &'static str,
        reason: String,
    },
    #[error("cannot tell the node's network namespace (SO_NETNS_COOKIE): {0}")]
    Netns(io::Error),
    #[error("cannot use the map {map}: {reason}")]
    Map { map: &'static str, reason: String },
    #[error("the kernel programs have no {0}: build daemon and programs from the same source")]
    Absent(&'static str),
}

/// What the running kernel says of one program.
#[derive(Debug)]
pub struct ProgramReport {
    pub name: &'static str,
    /// The kernel's name of the program's type.
    pub kind: &'static str,
    /// Instructions after the verifier's rewriting; 0 where the kernel doesn't tell.
    pub instructions: u32,
    /// Bytes of machine code.
    pub jited_size: u32,
    /// Or the verifier's log.
    pub verdict: Result<(), String>,
}

/// The file that all programs and maps are loaded from.
pub fn object() -> Result<&'static [u8], ProgramsError> {
    if OBJECT.is_empty() {
        return Err(ProgramsError::NotBuilt);
    }
    Ok(OBJECT)
}

impl Programs {
    /// The pods' programs will share the maps that are pinned at these paths; they are made where
    /// there is none.
    pub fn new(shared: &[(&'static str, PathBuf)]) -> Result<Self, ProgramsError> {
        object()?;
        Ok(Self {
            shared: shared.to_vec(),
            loader: Mutex::default(),
        })
    }

    /// Loads programs and maps for one pod.
    pub fn load(&self) -> Result<PodPrograms, ProgramsError> {
        let mut pod = self.load_object()?;
        for name in LINKS {
            pod.load_program(name)?;
        }
        Ok(pod)
    }

    /// Loads the maps of all programs, and no program yet.
    pub fn load_object(&self) -> Result<PodPrograms, ProgramsError> {
        // A loader holds only settings, which a panic elsewhere can't leave half-written.
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match &mut *loader {
            Some(loader) => loader.load(OBJECT),
            none => none.insert(self.new_loader()?).load(OBJECT),
        };
        loaded
            .map(PodPrograms)
            .map_err(|error| ProgramsError::Load(with_causes(&error)))
    }

    /// Loads programs for a pod that has maps already, pinned in `generation`.
    pub fn load_beside(&self, generation: &Generation) -> Result<PodPrograms, ProgramsError> {
        let mut loader = self.new_loader()?;
        for map in MAPS {
            loader.map_pin_path(map, generation.path(map));
        }
        let loaded = loader.load(OBJECT);
        let mut pod = loaded
            .map(PodPrograms)
            .map_err(|error| ProgramsError::Load(with_causes(&error)))?;
        for name in LINKS {
            pod.load_program(name)?;
        }
        Ok(pod)
    }

    fn new_loader(&self) -> Result<EbpfLoader<'static>, ProgramsError> {
        let netns = netns_cookie().map_err(ProgramsError::Netns)?;
        let mut loader = EbpfLoader::new();
        // No program needs the kernel's types.
        loader
            .btf(None)
            .override_global("NODE_NETNS", NODE_NETNS.get_or_init(|| netns), true);
        for (map, path) in &self.shared {
            loader.map_pin_path(map, path.clone());
        }
        Ok(loader)
    }
}

/// Loads every program into the running kernel's verifier; nothing stays behind.
pub fn verify_all() -> Result<Vec<ProgramReport>, ProgramsError> {
    let mut pod = Programs::new(&[])?.load_object()?;
    let names = LINKS.into_iter().chain([NODE_PROGRAM]);
    names.map(|name| pod.verify(name)).collect()
}

impl PodPrograms {
    /// Pins the maps. Whoever gets an error, from here or from `attach`, takes the generation off.
    pub fn pin_maps(&self, generation: &Generation) -> Result<(), AttachError> {
        for name in MAPS {
            let map = self.map(name)?;
            let path = generation.path(name);
            map.pin(&path).map_err(|error| PinError::Pin {
                path,
                reason: with_causes(&error),
            })?;
        }
        Ok(())
    }

    /// Attaches the programs and pins them.
    pub fn attach(
        mut self,
        netns: &Netns,
        cgroup: &Cgroup,
        generation: &Generation,
    ) -> Result<(), AttachError> {
        // What arrives is steered before anything is sent to arrive.
        for name in LINKS.into_iter().rev() {
            let link = self.attach_program(name, netns, cgroup)?;
            let path = generation.path(name);
            link.pin(&path).map_err(|error| PinError::Pin {
                path,
                reason: with_causes(&error),
            })?;
        }
        Ok(())
    }

    /// Attaches one of the programs, and pins it in the place of what was pinned there.
    pub fn replace(
        &mut self,
        name: &'static str,
        netns: &Netns,
        cgroup: &Cgroup,
        generation: &Generation,
    ) -> Result<(), AttachError> {
        let link = self.attach_program(name, netns, cgroup)?;
        generation.take_off(name)?;
        let path = generation.path(name);
        link.pin(&path).map_err(|error| PinError::Pin {
            path,
            reason: with_causes(&error),
        })?;
        Ok(())
    }

    /// What each program's instructions are known by, in the order of [`LINKS`].
    pub fn tags(&mut self) -> Result<Vec<u64>, ProgramsError> {
        let tag = |name| -> Result<u64, ProgramsError> {
            let info = self.program(name)?.info();
            Ok(info.map_err(|error| refused(name, &error))?.tag())
        };
        LINKS.into_iter().map(tag).collect()
    }

    pub fn into_inner(self) -> Ebpf {
        self.0
    }

    /// What the programs will note of connections that other programs rewrite.
    pub fn rewritten(&self) -> Result<Rewritten, ProgramsError> {
        let name = "REWRITTEN";
        Rewritten::open(self.map("ANY_REWRITTEN")?, self.map(name)?).map_err(|error| {
            ProgramsError::Map {
                map: name,
                reason: error.to_string(),
            }
        })
    }

    fn map(&self, name: &'static str) -> Result<&Map, ProgramsError> {
        self.0.map(name).ok_or(ProgramsError::Absent(name))
    }

    fn load_program(&mut self, name: &'static str) -> Result<(), ProgramsError> {
        match self.program(name)? {
            Program::SkLookup(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return Err(ProgramsError::Absent(name)),
        }
        .map_err(|error| refused(name, &error))
    }

    fn attach_program(
        &mut self,
        name: &'static str,
        netns: &Netns,
        cgroup: &Cgroup,
    ) -> Result<FdLink, ProgramsError> {
        let attached = match self.program(name)? {
            Program::SkLookup(program) => attach_to_netns(program, netns),
            Program::CgroupSockAddr(program) => attach_to_cgroup(program, cgroup),
            Program::SockOps(program) => attach_sock_ops(program, cgroup),
            _ => return Err(ProgramsError::Absent(name)),
        };
        attached.map_err(|reason| ProgramsError::Attach {
            program: name,
            reason,
        })
    }

    fn verify(&mut self, name: &'static str) -> Result<ProgramReport, ProgramsError> {
        let verdict = match self.load_program(name) {
            Ok(()) => Ok(()),
            Err(ProgramsError::Refused { log, .. }) => Err(log),
            Err(other) => return Err(other),
        };
        let program = self.program(name)?;
        let kind = match program {
            Program::SkLookup(_) => "sk_lookup",
            Program::SockOps(_) => "sock_ops",
            _ => "cgroup_sock_addr",
        };
        let info = program.info().ok();
        Ok(ProgramReport {
            name,
            kind,
            instructions: info
                .as_ref()
                .and_then(|info| Some(info.size_translated()? / INSTRUCTION_SIZE))
                .unwrap_or_default(),
            jited_size: info.map_or(0, |info| info.size_jitted()),
            verdict,
        })
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, ProgramsError> {
        self.0.program_mut(name).ok_or(ProgramsError::Absent(name))
    }
}

/// `sizeof(struct bpf_insn)`
const INSTRUCTION_SIZE: u32 = 8;

#[derive(Debug, Error)]
pub enum AttachError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// What the program needs of the kernel: Linux 6.1 is the oldest release that all of it was seen on.
fn needs(program: &str) -> &'static str {
    match program {
        "steer" => "sk_lookup with ingress_ifindex, which Linux 6.1 or newer has",
        _ => "Linux 6.1 or newer",
    }
}

pub fn refused(program: &'static str, error: &ProgramError) -> ProgramsError {
    let (reason, log) = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => (io_error.to_string(), format!("{io_error}\n{verifier_log}")),
        other => (with_causes(other), with_causes(other)),
    };
    ProgramsError::Refused {
        program,
        reason,
        log,
    }
}

fn attach_to_netns(program: &mut SkLookup, netns: &Netns) -> Result<FdLink, String> {
    let reason = |error: ProgramError| with_causes(&error);
    let link = program.attach(netns.file()).map_err(reason)?;
    Ok(program.take_link(link).map_err(reason)?.into())
}

fn attach_to_cgroup(program: &mut CgroupSockAddr, cgroup: &Cgroup) -> Result<FdLink, String> {
    let reason = |error: ProgramError| with_causes(&error);
    // Links always let others attach too; asking for it is refused.
    let link = program
        .attach(cgroup.file(), CgroupAttachMode::Single)
        .map_err(reason)?;
    let link = program.take_link(link).map_err(reason)?;
    link.try_into()
        .map_err(|error: LinkError| with_causes(&error))
}

pub fn attach_sock_ops(program: &mut SockOps, cgroup: &Cgroup) -> Result<FdLink, String> {
    let reason = |error: ProgramError| with_causes(&error);
    let link = program
        .attach(cgroup.file(), CgroupAttachMode::Single)
        .map_err(reason)?;
    let link = program.take_link(link).map_err(reason)?;
    link.try_into()
        .map_err(|error: LinkError| with_causes(&error))
}
