//! Cgroups (v2) of pods and daemons.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    iter,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long killed processes may take to leave their cgroup.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates the cgroup `name` (a path relative to the cgroup2 root).
    pub fn create(name: &Path) -> Result<Self> {
        let path = root()?.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path below the cgroup2 root, with a leading slash, as container runtimes pass it on.
    pub fn path_in_hierarchy(&self) -> Result<PathBuf> {
        let below = self.path.strip_prefix(root()?)?;
        Ok(Path::new("/").join(below))
    }

    /// Moves a process here.
    pub fn take(&self, pid: u32) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("write {}", procs.display()))
    }

    /// The file that a process writes `0` to, to join.
    pub fn procs(&self) -> Result<File> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
    }
}

/// What `BPF_PROG_QUERY` of bpf(2) takes and answers.
#[repr(C)]
#[derive(Default)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    // The kernel wants the rest of what it knows to be zero.
    _rest: [u32; 9],
}

impl Cgroup {
    /// The IDs of the kernel programs on this cgroup itself that see TCP connections being opened.
    pub fn programs(&self) -> Result<Vec<u32>> {
        const BPF_PROG_QUERY: libc::c_long = 16;
        const BPF_CGROUP_INET4_CONNECT: u32 = 10;
        const BPF_CGROUP_INET6_CONNECT: u32 = 11;
        let directory = File::open(&self.path)?;
        let mut found = Vec::new();
        for attach_type in [BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT] {
            let mut ids = [0_u32; 64];
            let mut query = ProgramQuery {
                target: u32::try_from(directory.as_raw_fd())?,
                attach_type,
                program_ids: ids.as_mut_ptr() as u64,
                program_count: 64,
                ..ProgramQuery::default()
            };
            // SAFETY: `query` and `ids` live through the call, and have the sizes that are given.
            let done = unsafe {
                let size = size_of::<ProgramQuery>();
                libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size)
            };
            nix::errno::Errno::result(done).context("ask for a cgroup's programs")?;
            found.extend(&ids[..query.program_count as usize]);
        }
        Ok(found)
    }
}

/// Where the cgroup2 hierarchy is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let root = mounts.lines().find_map(cgroup2_mount_point);
    ensure!(root.is_some(), "no cgroup2 is mounted: mount one");
    Ok(root.unwrap_or_default())
}

fn cgroup2_mount_point(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let is_cgroup2 = filesystem.split(' ').next()? == "cgroup2";
    is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

/// Kills what runs in the cgroup and its children, and removes them.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    kill_all(path)?;
    let deadline = Instant::now() + EXIT_TIMEOUT;
    for directory in children_first(path)? {
        loop {
            match fs::remove_dir(&directory) {
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                result => {
                    result?;
                    break;
                }
            }
        }
    }
    Ok(())
}

fn kill_all(path: &Path) -> io::Result<()> {
    let kill = OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.kill"));
    match kill {
        Ok(mut kill) => kill.write_all(b"1"),
        // Before Linux 5.14.
        Err(error) if error.kind() == io::ErrorKind::NotFound => kill_each(path),
        Err(error) => Err(error),
    }
}

fn kill_each(path: &Path) -> io::Result<()> {
    for directory in children_first(path)? {
        let members = fs::read_to_string(directory.join("cgroup.procs"))?;
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn children_first(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            found.extend(children_first(&entry.path())?);
        }
    }
    found.extend(iter::once(path.to_owned()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_beside_the_controllers_of_cgroup1() {
        let cpu = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount_point(cpu), None);
        assert_eq!(
            cgroup2_mount_point(unified),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }
}
