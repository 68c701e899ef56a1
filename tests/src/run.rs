//! What one run of the harness owns on the machine, and how it is removed, also after a killed run.
//!
//! Everything carries the prefix `ztun-t-<pid>-`: network namespaces in `/run/netns`, cgroups, directories
//! of pins in bpffs, temporary files. A run holds a lock on `/run/ztun-tests/<pid>.lock` for as long as it
//! lives; what belongs to a lock that nobody holds is removed by the next run.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, anyhow};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::resource::{Resource, getrlimit, setrlimit},
};

use crate::cgroup;

const LOCKS: &str = "/run/ztun-tests";
pub const NAMESPACES: &str = "/run/netns";
pub const BPFFS: &str = "/sys/fs/bpf";

/// This process's run. Dropping it is the kernel's task: the lock ends with the process.
pub struct Run {
    name: String,
    meshes: AtomicUsize,
    _lock: Flock<File>,
}

impl Run {
    /// This process's run; the first call removes what dead runs have left behind.
    pub fn current() -> Result<&'static Self> {
        static CURRENT: OnceLock<Result<Run, String>> = OnceLock::new();
        CURRENT
            .get_or_init(|| Self::start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("start a harness run: {error}"))
    }

    /// A name for the next mesh of this run.
    pub fn mesh_name(&self) -> String {
        let number = self.meshes.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}-", self.name)
    }

    fn start() -> Result<Self> {
        let pid = process::id();
        for directory in [LOCKS, NAMESPACES] {
            fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
        }
        let name = prefix(&pid.to_string());
        let lock = lock_own(&lock_path(pid))?;
        remove_dead_runs()?;
        remove(&name)?;
        mount_bpffs()?;
        raise_file_limit()?;
        Ok(Self {
            name,
            meshes: AtomicUsize::new(0),
            _lock: lock,
        })
    }
}

fn prefix(pid: &str) -> String {
    format!("ztun-t-{pid}-")
}

/// The temporary files of the mesh called `mesh`.
pub fn files(mesh: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{mesh}files"))
}

/// Ends and removes everything whose name starts with `prefix`. Goes on after a failure, and reports the first.
pub fn remove(prefix: &str) -> Result<()> {
    let cgroups =
        cgroup::root().map_or(Ok(()), |root| for_each(&root, prefix, cgroup::remove_tree));
    let namespaces = for_each(Path::new(NAMESPACES), prefix, remove_namespace);
    let pins = for_each(Path::new(BPFFS), prefix, |path| fs::remove_dir_all(path));
    let files = for_each(&std::env::temp_dir(), prefix, |path| {
        fs::remove_dir_all(path)
    });
    cgroups.and(namespaces).and(pins).and(files)
}

/// The paths of everything on the machine whose name starts with `prefix`.
pub fn owned(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let places = [NAMESPACES.into(), BPFFS.into(), std::env::temp_dir()];
    for place in places.into_iter().chain(cgroup::root().ok()) {
        let listed = for_each(&place, prefix, |path| {
            found.push(path.to_owned());
            Ok(())
        });
        debug_assert!(listed.is_ok());
    }
    found
}

/// The prefix of everything that the run with process ID `pid` owns.
pub fn prefix_of(pid: u32) -> String {
    prefix(&pid.to_string())
}

/// The name of the network namespace of a pod of `mesh`.
pub fn pod_namespace(mesh: &str, pod: &str) -> String {
    format!("{mesh}pod-{pod}")
}

/// Removes the network namespace called `name`.
pub fn remove_named_namespace(name: &str) -> Result<()> {
    remove_netns(&Path::new(NAMESPACES).join(name))
}

/// Removes the network namespace at `path`.
pub fn remove_netns(path: &Path) -> Result<()> {
    remove_namespace(path).with_context(|| format!("remove {}", path.display()))
}

fn for_each(
    directory: &Path,
    prefix: &str,
    mut act: impl FnMut(&Path) -> io::Result<()>,
) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    let mut result = Ok(());
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        let done = act(&path).with_context(|| format!("remove {}", path.display()));
        result = result.and(done);
    }
    result
}

fn remove_namespace(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // A run may die between the creation of the file and the mount.
        Ok(()) | Err(nix::Error::EINVAL) => fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

fn lock_path(pid: u32) -> PathBuf {
    Path::new(LOCKS).join(format!("{pid}.lock"))
}

fn lock_own(path: &Path) -> Result<Flock<File>> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock {}", path.display()))?;
        // Another run that took this file for a dead run's may have removed it before we had the lock.
        let ours = lock.metadata()?.ino();
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            return Ok(lock);
        }
    }
}

/// Removes what killed runs have left behind.
pub fn remove_dead_runs() -> Result<()> {
    let own = process::id().to_string();
    for entry in fs::read_dir(LOCKS)?.flatten() {
        let path = entry.path();
        let Some(pid) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if pid == own {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        remove(&prefix(pid)).with_context(|| format!("clean up after the killed run {pid}"))?;
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if mounts.lines().any(|line| line.contains(" - bpf ")) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mount bpffs on {BPFFS}"))
}

/// Tests hold both ends of thousands of connections.
fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")
}
