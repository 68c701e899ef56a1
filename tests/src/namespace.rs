//! Network namespaces, and processes in them.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use crate::{cgroup::Cgroup, run, users::UserNamespace};

/// A network namespace with a name, so that `ip netns exec NAME` works for people.
#[derive(Clone, Debug)]
pub struct Netns {
    path: PathBuf,
    file: Arc<File>,
}

impl Netns {
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(run::NAMESPACES).join(name);
        Self::create_at(&path)
            .with_context(|| format!("create network namespace {}", path.display()))
    }

    /// The one that this process is in.
    pub fn own() -> Result<Self> {
        let path = Path::new("/proc/self/ns/net");
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// As [`create`](Self::create), but that it belongs to a user namespace of its own, in which root is nobody
    /// on the machine.
    pub fn create_with_users(name: &str) -> Result<(Self, UserNamespace)> {
        let path = Path::new(run::NAMESPACES).join(name);
        UserNamespace::create(|process| Self::bind(&process.join("net"), &path))
            .with_context(|| format!("create network namespace {} with users", path.display()))
    }

    /// Runs `action` inside the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        in_thread(|| {
            setns(self.file.as_ref(), CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter {}", self.path.display()))?;
            Ok(action())
        })
    }

    /// Sets the sysctl `key`, written with slashes, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("set {key} to {value} in {}", self.path.display()))
    }

    fn create_at(path: &Path) -> Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::bind(Path::new("/proc/thread-self/ns/net"), path)
        })
    }

    /// Gives the namespace at `from` the name `path`.
    fn bind(from: &Path, path: &Path) -> Result<Self> {
        File::create_new(path)?;
        mount(
            Some(from),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
        })
    }
}

/// Makes `command` start inside `netns` and `cgroup`.
pub fn confine(command: &mut Command, netns: &Netns, cgroup: &Cgroup) -> Result<()> {
    let netns = netns.clone();
    let procs = cgroup.procs()?;
    let join = move || -> io::Result<()> {
        (&procs).write_all(b"0")?;
        setns(netns.file.as_ref(), CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    // SAFETY: between fork and exec `join` makes two system calls on descriptors that are open already; it
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(join) };
    Ok(())
}

/// Runs `action` on a thread of its own, which may leave its namespaces.
pub(crate) fn in_thread<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(action)
            .join()
            .map_err(|_| anyhow!("a thread in a network namespace panicked"))?
    })
}
