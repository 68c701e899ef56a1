//! Taking a process's memory away, until the kernel kills it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::cgroup::{self, Cgroup};

/// Less than any process needs.
const LIMIT: &str = "65536";

/// A cgroup in which a process gets no more memory. Dropping it removes it, once the process is gone.
pub struct Starvation {
    directory: PathBuf,
    events: &'static str,
    /// The process, if this is a cgroup made for it.
    moved: Option<i32>,
}

impl Starvation {
    /// Takes memory from `pid`, which is in `cgroup` of cgroup2; `None` where no memory controller is to be had.
    /// Where cgroup2 has it, the kernel kills at once; with cgroup1, at the next memory that the process asks for.
    pub fn of(pid: i32, cgroup: &Cgroup, name: &str) -> Result<Option<Self>> {
        let root = cgroup::root()?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        if controllers.split_whitespace().any(|it| it == "memory") {
            let mut at = root.clone();
            for part in cgroup.path().strip_prefix(&root)? {
                write(&at.join("cgroup.subtree_control"), "+memory")?;
                at.push(part);
            }
            write(&at.join("memory.max"), LIMIT)?;
            return Ok(Some(Self {
                directory: at,
                events: "memory.events",
                moved: None,
            }));
        }
        let Some(hierarchy) = memory_hierarchy()? else {
            return Ok(None);
        };
        let directory = hierarchy.join(name);
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let starvation = Self {
            directory,
            events: "memory.oom_control",
            moved: Some(pid),
        };
        let file = |name| starvation.directory.join(name);
        write(&file("memory.limit_in_bytes"), LIMIT)?;
        write(&file("cgroup.procs"), &pid.to_string())?;
        Ok(Some(starvation))
    }

    /// How many processes the kernel killed here for want of memory.
    pub fn kills(&self) -> Result<u64> {
        let events = fs::read_to_string(self.directory.join(self.events))?;
        let count = events.lines().find_map(|it| it.strip_prefix("oom_kill "));
        Ok(count.context("the kernel does not count")?.parse()?)
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        let Some(pid) = self.moved else {
            // The next daemon is in the same cgroup.
            let freed = fs::write(self.directory.join("memory.max"), "max");
            debug_assert!(freed.is_ok(), "lift a limit of memory: {freed:?}");
            return;
        };
        // It is gone, unless its test has failed.
        let back = self.directory.with_file_name("cgroup.procs");
        let _ = fs::write(back, pid.to_string());
        let removed = fs::remove_dir(&self.directory);
        debug_assert!(removed.is_ok(), "remove a cgroup: {removed:?}");
    }
}

/// Where cgroup1's memory controller is mounted.
fn memory_hierarchy() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount_point = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - cgroup ")?;
        let options = filesystem.split(' ').next_back()?;
        let has_memory = options.split(',').any(|option| option == "memory");
        has_memory.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    if let Some(path) = &mount_point {
        ensure!(path.is_dir(), "{} is not to be seen", path.display());
    }
    Ok(mount_point)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {text} to {}", path.display()))
}
