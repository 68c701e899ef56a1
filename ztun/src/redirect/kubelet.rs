//! Lets this node's kubelet probe captured pods: its connections, and no other process's.
//!
//! `probe` on the kubelet's cgroup records each connection that it opens in the map `PROBES`, and
//! every pod's `steer` lets those through. Both are pinned, so that probes go on while the daemon is
//! away.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::{
    maps::{HashMap, MapError},
    programs::Program,
};
use thiserror::Error;
use ztun_common::Flow;

use super::{
    cgroup::{Cgroup, CgroupError},
    hierarchy::{self, HierarchyError},
    link::{Attachment, PinnedLink},
    pins::{NODE_PROGRAM, PinDirectory, PinError},
    programs::{self, Programs, ProgramsError},
    with_causes,
};

/// The map that `steer` and `probe` share.
pub const PROBES: &str = "PROBES";

/// Where a kubelet runs, below the root of the hierarchy: as a systemd service, as kind has it, and
/// within the service of a distribution.
const USUAL_CGROUPS: [&str; 6] = [
    "system.slice/kubelet.service",
    "kubelet.slice/kubelet.service",
    "podruntime.slice/kubelet.service",
    "system.slice/k3s.service",
    "system.slice/k3s-agent.service",
    "system.slice/rke2-agent.service",
];

/// Whose probes pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// A cgroup where kubelets usually run, if there is one.
    Usual,
    /// This cgroup, when it is there.
    Cgroup(PathBuf),
    /// Nobody's.
    Nobody,
}

/// What [`follow`](super::Redirect::follow_kubelet) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probes {
    /// Those of this cgroup pass from now on.
    Attached(PathBuf),
    /// As they were.
    Unchanged,
    /// There is no such cgroup at present.
    NoKubelet,
}

#[derive(Debug, Error)]
pub enum KubeletError {
    #[error("{0}; set kubeletCgroup to the cgroup of this node's kubelet, or to `none`")]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// Attaches `probe` to the kubelet's cgroup, which is another one whenever its service has started.
///
/// With `anew`, also if an earlier daemon's program is attached there.
pub fn follow(
    pins: &PinDirectory,
    programs: &Programs,
    kubelet: &Kubelet,
    anew: bool,
) -> Result<Probes, KubeletError> {
    let Some(path) = cgroup_of(kubelet)? else {
        detach(pins)?;
        return Ok(Probes::NoKubelet);
    };
    let attached = PinnedLink::open(&pins.of_node(NODE_PROGRAM))
        .and_then(|link| link.attachment())
        .unwrap_or(Attachment::Nothing);
    // Asked again and again, so before the cgroup is opened: that looks at everything below it.
    let id = fs::metadata(&path).map(|directory| directory.ino());
    if id.is_ok_and(|id| attached == Attachment::Cgroup(id)) && !anew {
        return Ok(Probes::Unchanged);
    }
    attach(pins, programs, &Cgroup::open(&path)?, attached)?;
    Ok(Probes::Attached(path))
}

/// The cgroup, if it exists.
fn cgroup_of(kubelet: &Kubelet) -> Result<Option<PathBuf>, KubeletError> {
    let candidates = match kubelet {
        Kubelet::Nobody => Vec::new(),
        Kubelet::Cgroup(path) => vec![path.clone()],
        Kubelet::Usual => {
            let root = hierarchy::root()?;
            USUAL_CGROUPS.map(|path| root.join(path)).into()
        }
    };
    Ok(candidates.into_iter().find(|path| path.is_dir()))
}

fn attach(
    pins: &PinDirectory,
    programs: &Programs,
    cgroup: &Cgroup,
    before: Attachment,
) -> Result<(), KubeletError> {
    let name = NODE_PROGRAM;
    let mut loaded = programs.load_object()?.into_inner();
    if before == Attachment::Nothing {
        // What was open when an earlier program went was never taken out.
        let map = loaded
            .map_mut(PROBES)
            .ok_or(ProgramsError::Absent(PROBES))?;
        let map = map.try_into().map_err(|error| map_error(&error))?;
        clear(map).map_err(|error| map_error(&error))?;
    }
    let Some(Program::SockOps(program)) = loaded.program_mut(name) else {
        return Err(ProgramsError::Absent(name).into());
    };
    program
        .load()
        .map_err(|error| programs::refused(name, &error))?;
    let link =
        programs::attach_sock_ops(program, cgroup).map_err(|reason| ProgramsError::Attach {
            program: name,
            reason,
        })?;
    // The former one goes only now: no connection of the kubelet falls between the two.
    detach(pins)?;
    let path = pins.of_node(name);
    link.pin(&path).map_err(|error| PinError::Pin {
        path,
        reason: with_causes(&error),
    })?;
    Ok(())
}

fn detach(pins: &PinDirectory) -> Result<(), PinError> {
    let path = pins.of_node(NODE_PROGRAM);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Remove { path, error })
        }
        _ => Ok(()),
    }
}

fn clear(
    mut probes: HashMap<&mut aya::maps::MapData, [u8; Flow::SIZE], u8>,
) -> Result<(), MapError> {
    let flows: Vec<_> = probes.keys().collect::<Result<_, _>>()?;
    for flow in flows {
        match probes.remove(&flow) {
            Err(MapError::KeyNotFound) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn map_error(error: &MapError) -> ProgramsError {
    ProgramsError::Map {
        map: PROBES,
        reason: with_causes(error),
    }
}
