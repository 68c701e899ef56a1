//! Finds pods that run on this node, and the way to their network namespaces.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use thiserror::Error;

use super::{
    PodSandbox,
    addresses::NamespaceAddresses,
    cgroup,
    hierarchy::{self, HierarchyError},
    netlink::{Netlink, NetlinkError},
    netns::{Netns, NetnsError, NetnsId},
};
use crate::mesh::PodName;

/// Where container runtimes and `ip netns` mount network namespaces by name.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Why a pod was not found on this node.
#[derive(Debug, Error)]
pub enum FindError {
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    #[error("the mesh state has no UID of it to find it by: enrol it with `ztun enrol`")]
    NoUid,
    #[error("the mesh state has no address of it yet")]
    NoAddress,
    #[error(
        "no cgroup is named after its UID {uid}; is it running, and is the CNI plugin installed?"
    )]
    NoCgroup { uid: String },
    #[error("cannot list the processes of its cgroup {}: {error}", path.display())]
    Processes { path: PathBuf, error: io::Error },
    #[error("no process runs in its cgroup {} yet", path.display())]
    NoProcess { path: PathBuf },
    #[error(
        "its processes are in a PID namespace that the daemon can't see: run it in the node's (hostPID: true)"
    )]
    Unseen,
    #[error("its processes run in the node's own network namespace, which can't be captured")]
    Host,
    #[error("its processes run in no network namespace with an address of it ({addresses:?})")]
    OtherAddresses { addresses: Vec<IpAddr> },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl FindError {
    /// Whether this is how a pod looks that is just being started.
    pub fn is_usual(&self) -> bool {
        matches!(
            self,
            Self::NoAddress | Self::NoCgroup { .. } | Self::NoProcess { .. }
        )
    }
}

pub fn find(
    home: &Netns,
    pod: &PodName,
    uid: &str,
    addresses: &[IpAddr],
) -> Result<PodSandbox, FindError> {
    if uid.is_empty() {
        return Err(FindError::NoUid);
    }
    if addresses.is_empty() {
        return Err(FindError::NoAddress);
    }
    let root = hierarchy::root()?;
    let cgroup = hierarchy::of_pod(&root, uid).ok_or_else(|| FindError::NoCgroup {
        uid: uid.to_owned(),
    })?;
    let mut is_elsewhere = false;
    for (id, path) in namespaces(&cgroup)? {
        if id == home.id() {
            continue;
        }
        is_elsewhere = true;
        let netns = Netns::open(&path)?;
        // A process may have other namespaces inside its pod: only the pod's has the address.
        let own = netns.run(|| NamespaceAddresses::read(&Netlink::connect()?))??;
        if netns.id() == id && own.own.iter().any(|address| addresses.contains(address)) {
            return Ok(PodSandbox {
                pod: pod.clone(),
                uid: uid.to_owned(),
                sandbox_id: String::new(),
                netns: named(|named| named == id).unwrap_or(path),
                cgroup,
            });
        }
    }
    if is_elsewhere {
        Err(FindError::OtherAddresses {
            addresses: addresses.to_vec(),
        })
    } else {
        Err(FindError::Host)
    }
}

/// `steered` is the inode of the namespace in which the kernel captures the sandbox, if it does.
pub fn whereabouts(sandbox: &PodSandbox, steered: Option<u64>) -> Option<PathBuf> {
    let path = &sandbox.netns;
    let Some(pid) = process_of(path) else {
        return path.exists().then(|| path.clone());
    };
    let Some(inode) = steered else {
        let is_its = cgroup::holds(&sandbox.cgroup, pid).unwrap_or(false);
        return (is_its && path.exists()).then(|| path.clone());
    };
    let is_captured = |id: NetnsId| id.inode() == inode;
    if NetnsId::at(path).is_ok_and(is_captured) {
        return Some(path.clone());
    }
    let by_process = || {
        let namespaces = namespaces(&sandbox.cgroup).ok()?;
        let mut found = namespaces.into_iter().filter(|(id, _)| is_captured(*id));
        found.next().map(|(_, path)| path)
    };
    named(is_captured).or_else(by_process)
}

/// The network namespaces of the cgroup's processes, each by the oldest of them: in a pod that is
/// the one that holds its namespaces.
fn namespaces(cgroup: &Path) -> Result<Vec<(NetnsId, PathBuf)>, FindError> {
    let processes = cgroup::processes(cgroup).map_err(|error| FindError::Processes {
        path: cgroup.to_owned(),
        error,
    })?;
    if processes.is_empty() {
        return Err(FindError::NoProcess {
            path: cgroup.to_owned(),
        });
    }
    if processes.iter().all(|&pid| pid == 0) {
        return Err(FindError::Unseen);
    }
    let by_age: BTreeMap<(u64, u32), PathBuf> = processes
        .into_iter()
        .filter_map(|pid| Some(((started(pid)?, pid), format!("/proc/{pid}/ns/net").into())))
        .collect();
    let mut found: Vec<(NetnsId, PathBuf)> = Vec::new();
    for path in by_age.into_values() {
        // A process may have ended by now.
        if let Ok(id) = NetnsId::at(&path)
            && !found.iter().any(|(known, _)| *known == id)
        {
            found.push((id, path));
        }
    }
    Ok(found)
}

/// When the process started, in clock ticks since boot.
fn started(pid: u32) -> Option<u64> {
    start_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 22nd field (proc(5)); the second, the name, is in parentheses and may hold anything.
fn start_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// The first mount by name of a namespace that is meant.
fn named(is_meant: impl Fn(NetnsId) -> bool) -> Option<PathBuf> {
    NAMED
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| NetnsId::at(path).is_ok_and(&is_meant))
}

/// The process of a path such as `/proc/123/ns/net`.
fn process_of(path: &Path) -> Option<u32> {
    let mut parts = path.components();
    let is_proc = parts.next() == Some(Component::RootDir)
        && parts.next() == Some(Component::Normal("proc".as_ref()));
    let pid = parts.next().filter(|_| is_proc)?;
    pid.as_os_str().to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process;

    use super::*;

    fn sandbox(netns: &str, cgroup: &Path) -> PodSandbox {
        PodSandbox {
            pod: PodName::new("default", "pod"),
            uid: "u".to_owned(),
            sandbox_id: String::new(),
            netns: netns.into(),
            cgroup: cgroup.to_owned(),
        }
    }

    /// What stands for a cgroup with this test's process in it.
    fn cgroup_with_this_process() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("container");
        fs::create_dir(&container).unwrap();
        fs::write(container.join("cgroup.procs"), process::id().to_string()).unwrap();
        directory
    }

    #[test]
    fn the_start_of_a_process_is_read_past_whatever_its_name_holds() {
        let stat = "42 (a) b 7) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        assert_eq!(start_in(stat), Some(987));
        assert!(started(process::id()).is_some());
    }

    #[test]
    fn a_path_by_a_process_leads_to_the_sandbox_only_while_the_process_is_in_its_cgroup() {
        let own = format!("/proc/{}/ns/net", process::id());
        let cgroup = cgroup_with_this_process();
        assert_eq!(
            whereabouts(&sandbox(&own, cgroup.path()), None),
            Some(own.clone().into())
        );
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(whereabouts(&sandbox(&own, empty.path()), None), None);
        assert_eq!(
            whereabouts(&sandbox("/proc/1/ns/net", cgroup.path()), None),
            None
        );
    }

    #[test]
    fn a_captured_namespace_is_found_again_after_the_process_of_its_path_has_ended() {
        let inode = NetnsId::at(Path::new("/proc/self/ns/net")).unwrap().inode();
        let cgroup = cgroup_with_this_process();
        // No process has this number: it is above the kernel's limit.
        let lost = sandbox("/proc/4194305/ns/net", cgroup.path());
        let found = whereabouts(&lost, Some(inode)).unwrap();
        assert_eq!(NetnsId::at(&found).unwrap().inode(), inode);
        assert_eq!(whereabouts(&lost, Some(u64::MAX)), None);
        assert_eq!(whereabouts(&lost, None), None);
    }

    #[test]
    fn a_named_path_counts_as_long_as_it_is_there() {
        let cgroup = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let named = sandbox(file.path().to_str().unwrap(), cgroup.path());
        assert_eq!(whereabouts(&named, None), Some(file.path().to_owned()));
        drop(file);
        assert_eq!(whereabouts(&named, Some(1)), None);
    }

    #[test]
    fn a_pod_without_a_uid_or_an_address_is_not_looked_for() {
        let home = Netns::current().unwrap();
        let pod = PodName::new("default", "pod");
        let address = [IpAddr::from([10, 0, 0, 1])];
        let refused = find(&home, &pod, "", &address).unwrap_err();
        assert!(matches!(refused, FindError::NoUid), "{refused}");
        let refused = find(&home, &pod, "u", &[]).unwrap_err();
        assert!(matches!(refused, FindError::NoAddress), "{refused}");
    }
}
