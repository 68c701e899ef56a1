//! Captures pods: kernel programs, routes and sysctls in their network namespaces. The only home of `unsafe`.
//!
//! A captured pod has programs and maps of its own, attached to its cgroup (`capture4`, `capture6`,
//! `note`) and to its network namespace (`steer`), and listeners of this daemon in its namespace. The
//! attachments are pinned: they outlive the daemon, whose listeners don't, and without listeners
//! the programs refuse and drop. So a pod whose daemon died is closed, not free.

mod addresses;
mod adopt;
mod bpf;
mod cgroup;
mod changes;
mod find;
mod follow;
pub mod hierarchy;
mod kernel;
mod kubelet;
mod link;
mod listeners;
mod maps;
mod netlink;
mod netns;
mod pins;
mod prepare;
mod programs;
mod repair;
mod rewritten;
mod routes;
mod self_test;
mod sockets;
mod state;
mod sysctl;

use std::{
    collections::BTreeSet,
    error::Error,
    fmt, fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    adopt::Unfit,
    cgroup::CgroupError,
    find::FindError,
    follow::{AddressFollower, FollowError, Followed},
    kernel::{Feature, Finding, KernelError, KernelReport},
    kubelet::{Kubelet, KubeletError, Probes},
    netns::NetnsError,
    pins::{PinError, PodId},
    prepare::PrepareError,
    programs::{ProgramReport, ProgramsError, verify_all},
    repair::ReattachError,
    sockets::PodNetns,
    state::{CaptureState, Gap, Remedy},
};
use self::{
    cgroup::Cgroup,
    maps::PodMaps,
    netns::Netns,
    pins::{Generation, PinDirectory},
    prepare::Prepared,
    programs::{AttachError, DIGEST, Programs},
    rewritten::Rewritten,
};
use crate::{
    mesh::PodName,
    proxy::pod::{PodAddresses, PodListeners},
};

/// What a container runtime (or an operator) says of a pod that is to be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSandbox {
    pub pod: PodName,
    /// The pod's UID in Kubernetes; empty where there is none.
    #[serde(default)]
    pub uid: String,
    /// The container runtime's ID of this sandbox; a pod that is restarted gets another.
    #[serde(default)]
    pub sandbox_id: String,
    /// The pod's network namespace, such as `/run/netns/cni-…` or `/proc/123/ns/net`.
    pub netns: PathBuf,
    /// The pod's cgroup directory (cgroup v2).
    pub cgroup: PathBuf,
}

/// Captures the node's pods.
pub struct Redirect {
    programs: Programs,
    pins: PinDirectory,
    /// The daemon's own network namespace.
    home: Arc<Netns>,
    /// Held while a pod's capture changes; true once that is a successor's business.
    changing: Mutex<bool>,
    /// What the programs are known by, once somebody has asked: finding out takes a load.
    tags: OnceLock<Vec<u64>>,
}

/// Keeps every pod's capture as it is.
pub struct Unchanging<'a>(MutexGuard<'a, bool>);

/// A pod whose connections arrive at the daemon's listeners.
#[derive(Debug)]
pub struct CapturedPod {
    pub addresses: PodAddresses,
    pub sockets: Arc<PodNetns>,
    pub listeners: PodListeners,
    pub follower: AddressFollower,
}

/// Why the daemon can capture no pod at all.
#[derive(Debug, Error)]
pub enum RedirectError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Why a pod was not captured; nothing was changed then.
#[derive(Debug, Error)]
pub enum EnrolError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// The inode of the daemon's own network namespace.
pub fn own_netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

impl Unchanging<'_> {
    /// From now on the pods' addresses are a successor's to follow.
    pub fn hand_over(mut self) {
        *self.0 = true;
    }
}

impl Redirect {
    /// Checks that this kernel takes the programs, and opens the directory for pins: on a bpffs,
    /// which is mounted if there is none.
    pub fn new(pin_directory: &Path) -> Result<Self, RedirectError> {
        let pins = PinDirectory::open(pin_directory)?;
        let programs = Programs::new(&[(kubelet::PROBES, pins.of_node(kubelet::PROBES))])?;
        if !pins.is_loadable(DIGEST) {
            programs.load()?;
            pins.mark_loadable(DIGEST)?;
        }
        Ok(Self {
            programs,
            pins,
            home: Arc::new(Netns::current()?),
            changing: Mutex::new(false),
            tags: OnceLock::new(),
        })
    }

    /// Captures a pod. Blocks for some milliseconds.
    ///
    /// A pod that is captured already, by this daemon or one before it, is captured anew: the new
    /// listeners take over before the old ones are cut off, and there is no moment between.
    pub fn enrol(&self, sandbox: &PodSandbox) -> Result<CapturedPod, EnrolError> {
        let netns = self.open_netns(sandbox)?;
        let cgroup = Cgroup::open(&sandbox.cgroup)?;
        let _changing = self.lock();
        self.capture(sandbox, netns, &cgroup, PodListeners::default())
    }

    /// Captures a pod that an earlier daemon captured, whose `listeners` go on if there are any.
    ///
    /// What that daemon left in the kernel is kept if it is what this one would make, which takes
    /// a fraction of a millisecond; else the pod is captured anew, as by [`enrol`](Self::enrol).
    pub fn take_over(
        &self,
        sandbox: &PodSandbox,
        mut listeners: PodListeners,
    ) -> Result<CapturedPod, EnrolError> {
        let netns = self.open_netns(sandbox)?;
        let cgroup = Cgroup::open(&sandbox.cgroup)?;
        let _changing = self.lock();
        match self.adopt(sandbox, netns, &cgroup, &mut listeners) {
            Ok(captured) => Ok(captured),
            Err(reason) => {
                tracing::info!(pod = %sandbox.pod, %reason, "captured anew instead of taken over");
                let netns = self.open_netns(sandbox)?;
                self.capture(sandbox, netns, &cgroup, listeners)
            }
        }
    }

    /// For a caller that holds `changing`.
    fn capture(
        &self,
        sandbox: &PodSandbox,
        netns: Netns,
        cgroup: &Cgroup,
        listeners: PodListeners,
    ) -> Result<CapturedPod, EnrolError> {
        let mut prepared = netns.run(|| prepare::prepare(listeners))??;
        let (maps, rewritten) = match self.attach(sandbox, &netns, cgroup, &prepared) {
            Ok(attached) => attached,
            Err(error) => {
                let changes = prepared.take_changes();
                netns.run(|| changes.undo())?;
                return Err(error);
            }
        };
        let source = prepared.addresses.source(None);
        let addresses = PodAddresses::new(prepared.addresses.own);
        let sockets = Arc::new(PodNetns::new(
            netns,
            addresses.clone(),
            rewritten,
            Arc::clone(&self.home),
        ));
        Ok(CapturedPod {
            follower: AddressFollower::new(
                Arc::clone(&sockets),
                prepared.later,
                maps,
                addresses.clone(),
                source,
            ),
            addresses,
            sockets,
            listeners: prepared.listeners,
        })
    }

    /// Makes a pod's capture true to the addresses that the pod has now. Blocks for some
    /// milliseconds.
    ///
    /// Nothing that is open is touched, and an address that is not yet followed is closed.
    pub fn catch_up(&self, follower: &mut AddressFollower) -> Result<Followed, FollowError> {
        // An enrolment of the same pod that fails would take back what is needed here.
        let is_handed_over = self.lock();
        if *is_handed_over {
            return Err(FollowError::HandedOver);
        }
        follower.catch_up()
    }

    /// Holds up every change.
    pub fn pause(&self) -> Unchanging<'_> {
        Unchanging(self.lock())
    }

    /// The sandbox's network namespace, for one that is captured and not served.
    pub fn reopen(&self, sandbox: &PodSandbox) -> Result<Arc<PodNetns>, EnrolError> {
        let netns = self.open_netns(sandbox)?;
        let rewritten = state::newest(self, sandbox)
            .ok_or(Unfit::Absent)
            .and_then(|it| Rewritten::of_generation(&it).map_err(Unfit::Read));
        let (addresses, home) = (PodAddresses::default(), Arc::clone(&self.home));
        Ok(Arc::new(PodNetns::new(netns, addresses, rewritten?, home)))
    }

    /// Sets a pod free; also one whose namespace is gone, or that was never captured.
    ///
    /// In a namespace that still lives, the rules and the route for marked packets stay: sockets
    /// whose connections were captured keep the mark, and without the rules what they still send
    /// would leave in clear.
    pub fn release(&self, sandbox: &PodSandbox) -> Result<(), PinError> {
        self.release_id(&PodId::of(sandbox))
    }

    /// As [`release`](Self::release), for a pod that only its pins tell of.
    pub fn release_id(&self, pod: &PodId) -> Result<(), PinError> {
        let _changing = self.lock();
        self.pins
            .generations(pod)
            .iter()
            .try_for_each(|generation| self.pins.remove(pod, generation))
    }

    /// The pods that are pinned, by this daemon or one before it.
    pub fn pinned(&self) -> Result<Vec<PodId>, PinError> {
        self.pins.pods()
    }

    /// The pinned pods that none of `known` is. Those that are gone are forgotten; the others still
    /// run and are closed, which only their operator may change.
    pub fn orphans<'a>(
        &self,
        known: impl IntoIterator<Item = &'a PodSandbox>,
    ) -> Result<Vec<PodId>, PinError> {
        let known: BTreeSet<PodId> = known.into_iter().map(PodId::of).collect();
        let mut orphans = Vec::new();
        for pod in self
            .pinned()?
            .into_iter()
            .filter(|pod| !known.contains(pod))
        {
            if self
                .pins
                .generations(&pod)
                .iter()
                .any(Generation::is_attached)
            {
                orphans.push(pod);
            } else {
                self.release_id(&pod)?;
            }
        }
        Ok(orphans)
    }

    /// Whether the kernel captures the pod at this moment.
    pub fn check(&self, sandbox: &PodSandbox) -> CaptureState {
        state::check(self, sandbox)
    }

    /// As [`check`](Self::check), and whether a connection that is made as the pod's are arrives at
    /// this daemon. Takes seconds if it doesn't.
    pub fn verify(&self, sandbox: &PodSandbox) -> CaptureState {
        state::verify(self, sandbox)
    }

    /// How often the pod's programs gave each verdict; nothing for a pod that isn't captured.
    pub fn verdicts(&self, sandbox: &PodSandbox) -> Vec<(ztun_common::Verdict, u64)> {
        state::verdicts(self, sandbox)
    }

    /// Finds the sandbox of a pod that runs on this node, by the pod's UID. It is that pod's only if
    /// it has one of `addresses`. Blocks for some milliseconds.
    pub fn find(
        &self,
        pod: &PodName,
        uid: &str,
        addresses: &[IpAddr],
    ) -> Result<PodSandbox, FindError> {
        find::find(&self.home, pod, uid, addresses)
    }

    /// The path that leads to the sandbox's network namespace now; `None` if the sandbox is gone.
    ///
    /// One by a process leads there only as long as that process lives, and then perhaps elsewhere.
    pub fn whereabouts(&self, sandbox: &PodSandbox) -> Option<PathBuf> {
        find::whereabouts(sandbox, state::steered(self, sandbox))
    }

    /// Lets the kubelet's probes pass, wherever it runs by now. `anew` replaces what an earlier
    /// daemon attached for that.
    pub fn follow_kubelet(&self, kubelet: &Kubelet, anew: bool) -> Result<Probes, KubeletError> {
        kubelet::follow(&self.pins, &self.programs, kubelet, anew)
    }

    fn open_netns(&self, sandbox: &PodSandbox) -> Result<Netns, NetnsError> {
        let netns = Netns::open(&sandbox.netns)?;
        if netns.id() == self.home.id() {
            return Err(NetnsError::Host {
                path: sandbox.netns.clone(),
            });
        }
        Ok(netns)
    }

    /// Attaches a new generation of the pod's programs, and takes off the ones before it.
    fn attach(
        &self,
        sandbox: &PodSandbox,
        netns: &Netns,
        cgroup: &Cgroup,
        prepared: &Prepared,
    ) -> Result<(PodMaps, Rewritten), EnrolError> {
        let programs = self.programs.load()?;
        let rewritten = programs.rewritten()?;
        let pod = PodId::of(sandbox);
        let previous = self.pins.generations(&pod);
        let generation = self.pins.create(&pod)?;
        let attach = || -> Result<PodMaps, AttachError> {
            programs.pin_maps(&generation)?;
            let mut maps = PodMaps::open(&generation)?;
            maps.set_addresses(&prepared.addresses.own)?;
            maps.add_listeners(&prepared.listeners)?;
            programs.attach(netns, cgroup, &generation)?;
            generation.mark(DIGEST)?;
            Ok(maps)
        };
        let maps = match attach() {
            Ok(maps) => maps,
            Err(error) => {
                self.pins.remove(&pod, &generation)?;
                return Err(error.into());
            }
        };
        for generation in &previous {
            if let Err(error) = self.pins.remove(&pod, generation) {
                // It has no listeners, or soon none: it refuses, and the pod is not free.
                tracing::warn!(pod = %sandbox.pod, %error, "cannot take off an earlier capture");
            }
        }
        Ok((maps, rewritten))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // The lock guards files, not memory: a panic leaves nothing that the next holder can't read.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes: the loader's errors name the call and keep the reason below it.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl From<AttachError> for EnrolError {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Programs(error) => error.into(),
            AttachError::Pin(error) => error.into(),
        }
    }
}
