//! Where capture outlives the daemon: `<directory>/v1/<pod>/<generation>/<link or map>` on a bpffs.
//!
//! What is the node's own lies in `<directory>/v1-node`.
//!
//! A pod has one generation, but for the moment in which a new one takes over from the old.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;

use super::{
    PodSandbox,
    link::{Attachment, PinnedLink},
};

/// The layout's version: a daemon leaves another version's pins alone.
const LAYOUT: &str = "v1";

/// As that, for what is the node's own.
const NODE_LAYOUT: &str = "v1-node";

/// The link of the program that is the node's own.
pub const NODE_PROGRAM: &str = "probe";

/// Where the kernel has a directory for a bpffs.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// A generation's links, in the order in which they are taken off: first what sends connections
/// to the listeners, then what lets them arrive there.
pub const LINKS: [&str; 4] = ["capture4", "capture6", "note", "steer"];

/// A generation's maps.
pub const MAPS: [&str; 5] = [
    "LISTENERS",
    "ADDRESSES",
    "VERDICTS",
    "REWRITTEN",
    "ANY_REWRITTEN",
];

/// A bpffs holds no files but pins: what is to be known of them is the name of a directory.
const MARK: &str = "programs-";

/// The directory with all pins.
#[derive(Debug)]
pub struct PinDirectory {
    pods: PathBuf,
    node: PathBuf,
}

/// What a pod's pins are filed under: its UID, or its namespace and name where it has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(String);

/// The pins of one capture of one pod.
#[derive(Debug)]
pub struct Generation {
    number: u64,
    directory: PathBuf,
}

#[derive(Debug, Error)]
pub enum PinError {
    #[error("cannot use {} for pins: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("cannot mount a bpffs at {}: {error}; mount one there: mount -t bpf bpf {}", path.display(), path.display())]
    Mount { path: PathBuf, error: io::Error },
    #[error("cannot pin {}: {reason}", path.display())]
    Pin { path: PathBuf, reason: String },
    #[error("cannot take off {}: {error}", path.display())]
    Remove { path: PathBuf, error: io::Error },
}

impl PinDirectory {
    /// Opens the directory, which lies on a bpffs.
    ///
    /// Where there is none, one is mounted: at `/sys/fs/bpf` for a directory below that, else at
    /// the directory itself. Pins live as long as that mount does: a daemon in a container needs
    /// the host's bpffs, or its pods would be free when it dies.
    pub fn open(directory: &Path) -> Result<Self, PinError> {
        let failed = |error| PinError::Directory {
            path: directory.to_owned(),
            error,
        };
        if !on_bpffs(directory).map_err(failed)? {
            let usual = Path::new(USUAL_MOUNT);
            let mount_point = if directory.starts_with(usual) {
                usual
            } else {
                fs::create_dir_all(directory).map_err(failed)?;
                directory
            };
            mount(
                Some("bpf"),
                mount_point,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .map_err(|errno| PinError::Mount {
                path: mount_point.to_owned(),
                error: errno.into(),
            })?;
            tracing::warn!(mount_point = %mount_point.display(), "no bpffs was mounted: mounted one");
        }
        let (pods, node) = (directory.join(LAYOUT), directory.join(NODE_LAYOUT));
        fs::create_dir_all(&pods).map_err(failed)?;
        fs::create_dir_all(&node).map_err(failed)?;
        Ok(Self { pods, node })
    }

    /// Where the node's own link or map of this name is pinned.
    pub fn of_node(&self, name: &str) -> PathBuf {
        self.node.join(name)
    }

    /// Says that this kernel takes these programs.
    pub fn mark_loadable(&self, programs: &str) -> Result<(), PinError> {
        mark(&self.node, programs)
    }

    /// Whether this kernel took these programs once, since it was booted.
    pub fn is_loadable(&self, programs: &str) -> bool {
        is_marked(&self.node, programs)
    }

    /// Every pod that has pins.
    pub fn pods(&self) -> Result<Vec<PodId>, PinError> {
        let entries = fs::read_dir(&self.pods).map_err(|error| PinError::Directory {
            path: self.pods.clone(),
            error,
        })?;
        let mut pods: Vec<PodId> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .map(PodId)
            .collect();
        pods.sort_unstable();
        Ok(pods)
    }

    /// The pod's generations, oldest first.
    pub fn generations(&self, pod: &PodId) -> Vec<Generation> {
        let directory = self.pods.join(&pod.0);
        let mut generations: Vec<Generation> = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some(Generation {
                    number: entry.file_name().to_str()?.parse().ok()?,
                    directory: entry.path(),
                })
            })
            .collect();
        generations.sort_unstable_by_key(|generation| generation.number);
        generations
    }

    /// Makes the directory of the pod's next generation.
    pub fn create(&self, pod: &PodId) -> Result<Generation, PinError> {
        let newest = self
            .generations(pod)
            .last()
            .map_or(0, |newest| newest.number);
        let number = newest + 1;
        let directory = self.pods.join(&pod.0).join(number.to_string());
        fs::create_dir_all(&directory).map_err(|error| PinError::Directory {
            path: directory.clone(),
            error,
        })?;
        Ok(Generation { number, directory })
    }

    /// Takes a generation off. Gone already is fine.
    pub fn remove(&self, pod: &PodId, generation: &Generation) -> Result<(), PinError> {
        for name in LINKS {
            generation.take_off(name)?;
        }
        for name in MAPS {
            let path = generation.path(name);
            ignore_absence(fs::remove_file(&path), path)?;
        }
        generation.unmark();
        ignore_absence(
            fs::remove_dir(&generation.directory),
            generation.directory.clone(),
        )?;
        // It stays while it holds another generation.
        let _ = fs::remove_dir(self.pods.join(&pod.0));
        Ok(())
    }
}

impl Generation {
    /// Whether any of its links holds on to something that still is. In doubt it does.
    pub fn is_attached(&self) -> bool {
        LINKS.into_iter().any(|name| {
            let attachment = PinnedLink::open(&self.path(name)).and_then(|link| link.attachment());
            match attachment {
                Ok(attachment) => attachment != Attachment::Nothing,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            }
        })
    }

    /// Where the link or the map of this name is pinned.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Takes the link of this name off. Gone already is fine.
    pub fn take_off(&self, name: &str) -> Result<(), PinError> {
        let path = self.path(name);
        let result = match PinnedLink::open(&path) {
            Ok(link) => match link.detach() {
                // Where a link was attached may be gone before the link.
                Ok(()) | Err(_) => fs::remove_file(&path),
            },
            Err(error) => Err(error),
        };
        ignore_absence(result, path)
    }

    /// Says of which programs it is, once it is whole.
    pub fn mark(&self, programs: &str) -> Result<(), PinError> {
        mark(&self.directory, programs)
    }

    pub fn is_of(&self, programs: &str) -> bool {
        is_marked(&self.directory, programs)
    }

    fn unmark(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(MARK.as_bytes())
            {
                // What is left behind shows when the directory can't be removed.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl PodId {
    pub fn of(sandbox: &PodSandbox) -> Self {
        if sandbox.uid.is_empty() {
            let pod = &sandbox.pod;
            Self(format!("{}_{}", escape(&pod.namespace), escape(&pod.name)))
        } else {
            Self(escape(&sandbox.uid))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a name as a bpffs file name, which allows no dots, and never as a path.
fn escape(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02x}"),
        })
        .collect()
}

fn mark(directory: &Path, programs: &str) -> Result<(), PinError> {
    let path = directory.join(format!("{MARK}{programs}"));
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(PinError::Directory { path, error })
        }
        _ => Ok(()),
    }
}

fn is_marked(directory: &Path, programs: &str) -> bool {
    directory.join(format!("{MARK}{programs}")).is_dir()
}

/// Whether the path is on a bpffs, or would be if its missing directories were made.
fn on_bpffs(path: &Path) -> io::Result<bool> {
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "give an absolute path"))?;
    Ok(statfs(existing)?.filesystem_type() == BPF_FS_MAGIC)
}

fn ignore_absence(result: io::Result<()>, path: PathBuf) -> Result<(), PinError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Remove { path, error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::PodName;

    fn id(uid: &str, namespace: &str, name: &str) -> PodId {
        PodId::of(&PodSandbox {
            pod: PodName::new(namespace, name),
            uid: uid.to_owned(),
            sandbox_id: String::new(),
            netns: PathBuf::new(),
            cgroup: PathBuf::new(),
        })
    }

    #[test]
    fn a_pod_is_filed_under_its_uid_or_else_its_name() {
        assert_eq!(id("0a1b-2c", "prod", "web").as_str(), "0a1b-2c");
        assert_eq!(id("", "prod", "web-0").as_str(), "prod_web-0");
    }

    #[test]
    fn no_name_leaves_the_directory_or_needs_a_dot() {
        assert_eq!(id("../../etc", "", "").as_str(), "%2e%2e%2f%2e%2e%2fetc");
        assert_eq!(id("", "prod", "web.v1").as_str(), "prod_web%2ev1");
    }

    proptest! {
        #[test]
        fn two_pods_never_share_pins(a in "[a-z._%/-]{0,6}", b in "[a-z._%/-]{0,6}", c in "[a-z._%/-]{0,6}", d in "[a-z._%/-]{0,6}") {
            prop_assert_eq!(id("", &a, &b) == id("", &c, &d), (a, b) == (c, d));
        }
    }
}
