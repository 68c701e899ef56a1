//! Reading from the kernel whether a pod is captured.

use std::{fmt, net::IpAddr};

use aya::maps::{Map, MapData, PerCpuArray};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use ztun_common::{Listener, Verdict};

use super::{
    CgroupError, NetnsError, PodId, PodSandbox, ProgramsError, Redirect,
    addresses::NamespaceAddresses,
    cgroup::Cgroup,
    link::{Attachment, PinnedLink},
    maps::PodMaps,
    netlink::{Netlink, NetlinkError},
    netns::Netns,
    pins::{Generation, LINKS},
    prepare::SYSCTLS,
    routes,
};

/// Whether the kernel captures a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum CaptureState {
    Captured,
    NotCaptured { why: String },
}

impl CaptureState {
    pub fn is_captured(&self) -> bool {
        *self == Self::Captured
    }
}

impl fmt::Display for CaptureState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Captured => f.write_str("captured"),
            Self::NotCaptured { why } => write!(f, "not captured: {why}"),
        }
    }
}

#[derive(Debug, Error)]
pub enum Gap {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("it was never enrolled, or was released")]
    NotEnrolled,
    #[error("the program {0} is not attached to the pod")]
    NotAttached(&'static str),
    #[error(transparent)]
    Maps(#[from] ProgramsError),
    #[error("no {0:?} listener lives: its connections are refused; is the daemon serving the pod?")]
    NoListener(Listener),
    #[error("the pod's address {0} is new to the daemon; if that lasts, its log says why")]
    NewAddress(IpAddr),
    #[error("{0} still counts as the pod's own; if that lasts, the daemon's log says why")]
    FormerAddress(IpAddr),
    #[error("the sysctl {0} was changed")]
    Sysctl(&'static str),
    #[error("{0}")]
    Routing(&'static str),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

pub fn check(redirect: &Redirect, sandbox: &PodSandbox) -> CaptureState {
    match find_gap(redirect, sandbox) {
        Ok(()) => CaptureState::Captured,
        Err(gap) => CaptureState::NotCaptured {
            why: gap.to_string(),
        },
    }
}

pub fn verdicts(redirect: &Redirect, sandbox: &PodSandbox) -> Vec<(Verdict, u64)> {
    let read = || -> Option<Vec<(Verdict, u64)>> {
        let generation = newest(redirect, sandbox)?;
        let map = MapData::from_pin(generation.path("VERDICTS")).ok()?;
        let counters = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(map)).ok()?;
        Verdict::ALL
            .into_iter()
            .map(|verdict| {
                let by_cpu = counters.get(&verdict.index(), 0).ok()?;
                Some((verdict, by_cpu.iter().sum()))
            })
            .collect()
    };
    read().unwrap_or_default()
}

fn find_gap(redirect: &Redirect, sandbox: &PodSandbox) -> Result<(), Gap> {
    let netns = redirect.open_netns(sandbox)?;
    let cgroup = Cgroup::open(&sandbox.cgroup)?;
    let generation = newest(redirect, sandbox).ok_or(Gap::NotEnrolled)?;
    check_links(&generation, &netns, &cgroup)?;
    let maps = PodMaps::open(&generation)?;
    netns.run(|| check_inside(&maps))?
}

/// The network namespace in which the kernel steers the pod's connections.
pub fn steered(redirect: &Redirect, sandbox: &PodSandbox) -> Option<u64> {
    let link = PinnedLink::open(&newest(redirect, sandbox)?.path("steer")).ok()?;
    match link.attachment() {
        Ok(Attachment::Netns(inode)) => Some(inode),
        _ => None,
    }
}

pub fn newest(redirect: &Redirect, sandbox: &PodSandbox) -> Option<Generation> {
    redirect.pins.generations(&PodId::of(sandbox)).pop()
}

pub fn check_links(generation: &Generation, netns: &Netns, cgroup: &Cgroup) -> Result<(), Gap> {
    for name in LINKS {
        let wanted = match name {
            "steer" => Attachment::Netns(netns.id().inode()),
            _ => Attachment::Cgroup(cgroup.id()),
        };
        let attachment = PinnedLink::open(&generation.path(name))
            .and_then(|link| link.attachment())
            .unwrap_or(Attachment::Nothing);
        if attachment != wanted {
            return Err(Gap::NotAttached(name));
        }
    }
    Ok(())
}

/// Checks what lies in the calling thread's namespace.
fn check_inside(maps: &PodMaps) -> Result<(), Gap> {
    let netlink = Netlink::connect()?;
    let found = NamespaceAddresses::read(&netlink)?;
    let known = maps.addresses()?;
    if let Some(ip) = found.own.iter().find(|ip| !known.contains(ip)) {
        return Err(Gap::NewAddress(*ip));
    }
    if let Some(ip) = known.iter().find(|ip| !found.own.contains(ip)) {
        return Err(Gap::FormerAddress(*ip));
    }
    for family in found.families {
        for listener in Listener::ALL {
            if !maps.has_listener(listener, family)? {
                return Err(Gap::NoListener(listener));
            }
        }
        if let Some(missing) = routes::missing(&netlink, family, &found.own)? {
            return Err(Gap::Routing(missing));
        }
    }
    for (sysctl, value) in SYSCTLS {
        if sysctl.get().is_some_and(|current| current != value) {
            return Err(Gap::Sysctl(sysctl.0));
        }
    }
    Ok(())
}
