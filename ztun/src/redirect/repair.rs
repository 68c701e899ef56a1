//! Finding what was undone of a pod's capture, and making it again.

use thiserror::Error;

use super::{
    CgroupError, Gap, NetnsError, PinError, PodSandbox, ProgramsError, Redirect, cgroup::Cgroup,
    pins::MAPS, programs::AttachError, state,
};

/// Why a pod's programs were not attached again.
#[derive(Debug, Error)]
pub enum ReattachError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("its {0} is pinned no longer")]
    NotPinned(&'static str),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Pins(#[from] PinError),
}

impl Redirect {
    /// The first thing that the kernel has not as the pod's capture needs it.
    pub fn inspect(&self, sandbox: &PodSandbox) -> Result<(), Gap> {
        state::find_gap(self, sandbox)
    }

    /// Attaches those of a pod's programs that are not attached, or were replaced. Its maps,
    /// listeners and open connections go on as they are.
    pub fn reattach(&self, sandbox: &PodSandbox) -> Result<(), ReattachError> {
        let netns = self.open_netns(sandbox)?;
        let cgroup = Cgroup::open(&sandbox.cgroup)?;
        let _changing = self.lock();
        let newest = state::newest(self, sandbox);
        let generation = newest.ok_or(ReattachError::NotPinned("capture"))?;
        // The loader would make a map that is not there: one that nobody fills.
        for map in MAPS {
            if !generation.path(map).exists() {
                return Err(ReattachError::NotPinned(map));
            }
        }
        let faulty = state::faulty_links(self.tags()?, &generation, &netns, &cgroup);
        let mut programs = self.programs.load_beside(&generation)?;
        // What arrives is steered before anything is sent to arrive.
        for name in faulty.into_iter().rev() {
            let replaced = programs.replace(name, &netns, &cgroup, &generation);
            replaced.map_err(|error| match error {
                AttachError::Programs(error) => ReattachError::from(error),
                AttachError::Pin(error) => error.into(),
            })?;
        }
        Ok(())
    }

    /// What the programs of a pod are known by, in the order of their links.
    pub(super) fn tags(&self) -> Result<&[u64], ProgramsError> {
        if let Some(tags) = self.tags.get() {
            return Ok(tags);
        }
        let tags = self.programs.load()?.tags()?;
        Ok(self.tags.get_or_init(|| tags))
    }
}
