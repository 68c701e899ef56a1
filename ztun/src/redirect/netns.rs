//! A pod's network namespace, and running code in it.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, Metadata},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process, thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

/// An open network namespace; open, it outlives its path.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    id: NetnsId,
}

/// What the kernel knows a network namespace by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

#[derive(Debug, Error)]
pub enum NetnsError {
    #[error("cannot open the network namespace {}: {error}; is the pod still there?", path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is not a network namespace: give the path that the runtime made, such as /run/netns/cni-… or /proc/<pid>/ns/net", path.display())]
    NotANetns { path: PathBuf },
    #[error("{} is the node's own network namespace: a pod with hostNetwork can't be captured", path.display())]
    Host { path: PathBuf },
    #[error("cannot enter the network namespace {}: {error}; the daemon needs CAP_SYS_ADMIN", path.display())]
    Enter { path: PathBuf, error: io::Error },
}

impl Netns {
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open_error = |error| NetnsError::Open {
            path: path.to_owned(),
            error,
        };
        let file = File::open(path).map_err(open_error)?;
        let filesystem = fstatfs(&file).map_err(|error| open_error(error.into()))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::NotANetns {
                path: path.to_owned(),
            });
        }
        let id = NetnsId::of(&file).map_err(open_error)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id,
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Whether the path still leads to this namespace: an open one outlives its pod.
    pub fn is_reachable(&self) -> bool {
        File::open(&self.path)
            .and_then(|file| NetnsId::of(&file))
            .is_ok_and(|id| id == self.id)
    }

    /// Runs `work` in this namespace, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter().map_err(|error| match error.kind() {
                    // It is a namespace of another kind.
                    io::ErrorKind::InvalidInput => NetnsError::NotANetns {
                        path: self.path.clone(),
                    },
                    _ => NetnsError::Enter {
                        path: self.path.clone(),
                        error,
                    },
                })?;
                Ok(work())
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `work` in this namespace on the calling thread, which comes from the namespace `home`.
    ///
    /// For short work that doesn't block: a thread of its own would cost more than the work.
    pub fn visit<T>(&self, home: &Self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        /// Goes home when it is dropped, after a panic too.
        struct Return<'a>(&'a Netns);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                if let Err(error) = self.0.enter() {
                    // A worker left in a pod's namespace would serve other pods from there.
                    tracing::error!(%error, "cannot leave a pod's network namespace: aborting");
                    process::abort();
                }
            }
        }
        self.enter()?;
        let _return = Return(home);
        work()
    }

    fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}

impl NetnsId {
    pub fn inode(self) -> u64 {
        self.inode
    }

    /// Of the namespace that `path` leads to, without opening it.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }

    fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&Metadata> for NetnsId {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// What kernel programs know the calling thread's network namespace by (Linux 5.14).
pub fn cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to the cookie, which is as long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn refusal(path: &Path) -> String {
        Netns::open(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = refusal(file.path());
        assert!(message.contains("is not a network namespace"), "{message}");
        assert!(message.contains(file.path().to_str().unwrap()), "{message}");
        let message = refusal(Path::new("/run/netns/no-such-pod"));
        assert!(message.contains("/run/netns/no-such-pod"), "{message}");
        assert!(message.contains("is the pod still there?"), "{message}");
    }

    #[test]
    fn a_namespace_is_reachable_until_its_path_leads_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod");
        std::os::unix::fs::symlink("/proc/self/ns/net", &path).unwrap();
        let netns = Netns::open(&path).unwrap();
        assert!(netns.is_reachable());

        fs::remove_file(&path).unwrap();
        assert!(!netns.is_reachable());

        std::os::unix::fs::symlink("/proc/self/ns/mnt", &path).unwrap();
        assert!(!netns.is_reachable());
    }

    #[test]
    fn one_namespace_has_one_id_whatever_its_path() {
        let by_thread = Netns::current().unwrap();
        let by_process = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(by_thread.id(), by_process.id());
    }
}
