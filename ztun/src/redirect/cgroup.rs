//! A pod's cgroup.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use thiserror::Error;

/// A pod's cgroup v2 directory.
#[derive(Debug)]
pub struct Cgroup {
    file: File,
    id: u64,
}

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error("cannot open the cgroup {}: {error}; is the pod still there?", path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is not a cgroup v2 directory: capture needs the unified hierarchy", path.display())]
    NotCgroup2 { path: PathBuf },
    #[error("{} is the root of the cgroup hierarchy: it holds the whole node, not one pod", path.display())]
    Root { path: PathBuf },
    #[error("the cgroup {} holds this daemon too: its own connections would be captured; run it in a cgroup outside the pods'", path.display())]
    HoldsDaemon { path: PathBuf },
}

impl Cgroup {
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let open_error = |error| CgroupError::Open {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        let filesystem = fstatfs(&file).map_err(|error| open_error(error.into()))?;
        if filesystem.filesystem_type() != CGROUP2_SUPER_MAGIC || !metadata.is_dir() {
            return Err(CgroupError::NotCgroup2 {
                path: path.to_owned(),
            });
        }
        // Every cgroup has the file `cgroup.type`, except for the root.
        if !path.join("cgroup.type").exists() {
            return Err(CgroupError::Root {
                path: path.to_owned(),
            });
        }
        if holds(path, process::id()).map_err(open_error)? {
            return Err(CgroupError::HoldsDaemon {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            file,
            id: metadata.ino(),
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the kernel knows the cgroup by: its directory's inode.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Whether a process is in the cgroup or in one below it.
pub fn holds(cgroup: &Path, pid: u32) -> io::Result<bool> {
    Ok(processes(cgroup)?.contains(&pid))
}

/// The processes in the cgroup and those below it; 0 for each in a PID namespace out of sight.
pub fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut pending = vec![cgroup.to_owned()];
    while let Some(directory) = pending.pop() {
        // A threaded cgroup can't list processes; the list above it has them.
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            processes
                .lines()
                .filter_map(|line| line.parse::<u32>().ok()),
        );
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_cgroup_is_refused_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let message = Cgroup::open(directory.path()).unwrap_err().to_string();
        assert!(
            message.contains("is not a cgroup v2 directory"),
            "{message}"
        );
        let absent = directory.path().join("absent");
        let message = Cgroup::open(&absent).unwrap_err().to_string();
        assert!(message.contains(absent.to_str().unwrap()), "{message}");
    }

    #[test]
    fn a_process_is_found_in_cgroups_below() {
        let root = tempfile::tempdir().unwrap();
        let container = root.path().join("pod/container");
        fs::create_dir_all(&container).unwrap();
        fs::write(root.path().join("pod/cgroup.procs"), "").unwrap();
        fs::write(container.join("cgroup.procs"), "7\n42\n").unwrap();
        assert!(holds(&root.path().join("pod"), 42).unwrap());
        assert!(!holds(&root.path().join("pod"), 4).unwrap());
        assert_eq!(processes(root.path()).unwrap(), [7, 42]);
    }
}
