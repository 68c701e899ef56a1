//! Finds the cgroup v2 hierarchy, and a pod's place in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    #[error("cannot read /proc/self/mountinfo: {0}")]
    Mountinfo(io::Error),
    #[error(
        "cgroup v2 is not mounted; mount it (`mount -t cgroup2 none DIRECTORY`) or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NotMounted,
}

/// How deep below the root kubelet puts a pod: kubepods, `QoS` class, pod, and a level to spare
/// for a kubelet that runs inside a cgroup of its own.
const POD_DEPTH: usize = 5;

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
pub fn root() -> Result<PathBuf, HierarchyError> {
    let mountinfo =
        fs::read_to_string("/proc/self/mountinfo").map_err(HierarchyError::Mountinfo)?;
    root_in(&mountinfo).ok_or(HierarchyError::NotMounted)
}

/// The cgroup that kubelet made for the pod with this UID, whichever driver it uses:
/// `…/pod<uid>` (cgroupfs) or `…-pod<uid with underscores>.slice` (systemd).
pub fn of_pod(root: &Path, uid: &str) -> Option<PathBuf> {
    if uid.is_empty() {
        return None;
    }
    let names = [
        format!("pod{uid}"),
        format!("pod{}.slice", uid.replace('-', "_")),
    ];
    find(root, &names, POD_DEPTH)
}

fn find(directory: &Path, names: &[String], depth: usize) -> Option<PathBuf> {
    let children: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let named = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| names.iter().any(|wanted| name.ends_with(wanted.as_str())))
    };
    if let Some(found) = children.iter().find(named) {
        return Some(found.clone());
    }
    let below = depth.checked_sub(1)?;
    children.iter().find_map(|child| find(child, names, below))
}

/// Fields of a line: ID, parent, device, root, mount point, options, … `-`, type, source (proc(5)).
fn root_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        (filesystem.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(mount_point))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hierarchy_is_found_in_both_layouts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(root_in(unified).unwrap(), Path::new("/sys/fs/cgroup"));
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            root_in(hybrid).unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
        assert_eq!(
            root_in("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"),
            None
        );
    }

    #[test]
    fn a_pod_is_found_under_either_kubelet_driver() {
        let root = tempfile::tempdir().unwrap();
        let systemd = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a_2b.slice";
        let cgroupfs = "kubepods/besteffort/pod3c-4d";
        for path in [systemd, cgroupfs] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        assert_eq!(
            of_pod(root.path(), "1a-2b").unwrap(),
            root.path().join(systemd)
        );
        assert_eq!(
            of_pod(root.path(), "3c-4d").unwrap(),
            root.path().join(cgroupfs)
        );
        assert_eq!(of_pod(root.path(), "5e-6f"), None);
        assert_eq!(of_pod(root.path(), ""), None);
    }
}
