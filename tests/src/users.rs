//! User namespaces of pods: what root there may do ends with what belongs to the namespace.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, setresgid, setresuid},
};

use crate::sockets;

/// What `ztun-pod` is told to do before it makes sockets, or instead.
pub const BECOME_ROOT_OF: &str = "become-root-of";
const HOLD_NAMESPACES: &str = "hold-namespaces";

/// Root of a pod, and as many users more, are these on the machine.
const FIRST_USER: u32 = 100_000;
const USERS: u32 = 65_536;

/// A user namespace in which nobody has rights on the machine.
#[derive(Debug)]
pub struct UserNamespace(File);

impl UserNamespace {
    /// Creates it, and a network namespace that belongs to it. `keep` is given the folder of the namespaces'
    /// files (`net` is the network namespace's), which goes when it has returned.
    pub(crate) fn create<T>(keep: impl FnOnce(&Path) -> Result<T>) -> Result<(T, Self)> {
        // A process with several threads, as this one is, can't enter a user namespace.
        let mut holder = Holder(
            Command::new(sockets::program()?)
                .arg(HOLD_NAMESPACES)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let stdout = holder.0.stdout.as_mut().context("no standard output")?;
        let created = stdout.read_exact(&mut [0]);
        created.context("the namespaces were not created")?;
        let process = PathBuf::from(format!("/proc/{}", holder.0.id()));
        for map in ["uid_map", "gid_map"] {
            fs::write(process.join(map), format!("0 {FIRST_USER} {USERS}"))
                .with_context(|| format!("write {map}"))?;
        }
        let namespaces = process.join("ns");
        let users = File::open(namespaces.join("user"))?;
        Ok((keep(&namespaces)?, Self(users)))
    }

    /// Where the machine's root can open it as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }
}

/// The main function of `ztun-pod`: makes sockets, or holds namespaces if its arguments say so.
pub fn serve(mut arguments: impl Iterator<Item = String>, channel: RawFd) -> io::Result<()> {
    match arguments.next().as_deref() {
        None => {}
        Some(HOLD_NAMESPACES) => return hold(),
        Some(BECOME_ROOT_OF) => become_root_of(&arguments.next().unwrap_or_default())?,
        Some(other) => return Err(io::Error::other(format!("{other} is unknown"))),
    }
    sockets::serve(channel)
}

/// Creates namespaces, says so, and keeps them until nobody wants them any more.
fn hold() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn become_root_of(users: &str) -> io::Result<()> {
    setns(File::open(users)?, CloneFlags::CLONE_NEWUSER)?;
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(root, root, root)?;
    Ok(())
}

/// Ends with its owner.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        debug_assert!(ended.is_ok(), "end a process: {ended:?}");
    }
}
