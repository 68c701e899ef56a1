//! Reading from the kernel whether a pod is captured.

use std::{collections::HashSet, fmt, net::IpAddr};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, SockHash};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use ztun_common::{Address, Listener, ListenerKey, Verdict};

use super::{
    CgroupError, NetnsError, PodId, PodSandbox, Redirect,
    cgroup::Cgroup,
    link::{Attachment, PinnedLink},
    netlink::{Netlink, NetlinkError},
    netns::Netns,
    pins::{Generation, LINKS},
    prepare::{SYSCTLS, families},
    routes, with_causes,
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
enum Gap {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("it was never enrolled, or was released")]
    NotEnrolled,
    #[error("the program {0} is not attached to the pod")]
    NotAttached(&'static str),
    #[error("the map {0} can't be read: {1}")]
    Map(&'static str, String),
    #[error("no {0:?} listener lives: its connections are refused; is the daemon serving the pod?")]
    NoListener(Listener),
    #[error("the pod's address {0} came after its enrolment: enrol it again")]
    NewAddress(IpAddr),
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
    let own = own_addresses(&generation)?;
    let listening = listener_keys(&generation)?;
    netns.run(|| check_inside(&own, &listening))?
}

/// The network namespace in which the kernel steers the pod's connections.
pub fn steered(redirect: &Redirect, sandbox: &PodSandbox) -> Option<u64> {
    let link = PinnedLink::open(&newest(redirect, sandbox)?.path("steer")).ok()?;
    match link.attachment() {
        Ok(Attachment::Netns(inode)) => Some(inode),
        _ => None,
    }
}

fn newest(redirect: &Redirect, sandbox: &PodSandbox) -> Option<Generation> {
    redirect.pins.generations(&PodId::of(sandbox)).pop()
}

fn check_links(generation: &Generation, netns: &Netns, cgroup: &Cgroup) -> Result<(), Gap> {
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

fn own_addresses(generation: &Generation) -> Result<HashSet<[u8; 16]>, Gap> {
    let name = "ADDRESSES";
    let failed = |error: MapError| Gap::Map(name, with_causes(&error));
    let map = MapData::from_pin(generation.path(name)).map_err(failed)?;
    HashMap::<_, [u8; 16], u8>::try_from(Map::HashMap(map))
        .map_err(failed)?
        .keys()
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// The keys of the listeners that live: the kernel takes out a listener that is closed.
fn listener_keys(generation: &Generation) -> Result<HashSet<u32>, Gap> {
    let name = "LISTENERS";
    let failed = |error: MapError| Gap::Map(name, with_causes(&error));
    let map = MapData::from_pin(generation.path(name)).map_err(failed)?;
    SockHash::<_, u32>::try_from(Map::SockHash(map))
        .map_err(failed)?
        .keys()
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// Checks what lies in the calling thread's namespace.
fn check_inside(own: &HashSet<[u8; 16]>, listening: &HashSet<u32>) -> Result<(), Gap> {
    let netlink = Netlink::connect()?;
    let addresses = netlink.addresses()?;
    if let Some(ip) = addresses
        .iter()
        .find(|&&ip| !own.contains(&Address::from(ip).to_bytes()))
    {
        return Err(Gap::NewAddress(*ip));
    }
    for family in families(&addresses) {
        for listener in Listener::ALL {
            if !listening.contains(&ListenerKey::new(listener, family).index()) {
                return Err(Gap::NoListener(listener));
            }
        }
        if let Some(missing) = routes::missing(&netlink, family)? {
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
