//! Reading from the kernel whether a pod is captured.

use std::{fmt, io, net::IpAddr};

use aya::maps::{Map, MapData, PerCpuArray};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use ztun_common::{Family, Listener, Verdict};

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
    routes::{self, Missing},
    self_test,
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
    #[error("another program stands where {0} was attached to the pod")]
    OtherProgram(&'static str),
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
    #[error(transparent)]
    Routing(#[from] Missing),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("a test connection over IP{0:?} did not arrive at the daemon: {1}")]
    SelfTest(Family, io::Error),
}

/// How a gap can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The follower of the pod's addresses makes rules, routes, sysctls and entries of maps again.
    CatchUp,
    /// [`Redirect::reattach`]; where that can't be done, the pod is captured anew.
    Reattach,
    /// The pod is captured anew.
    CaptureAnew,
}

impl Gap {
    /// `None` if nothing that the daemon could do closes it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Netns(_) | Self::Cgroup(_) | Self::Netlink(_) | Self::SelfTest(..) => None,
            Self::NotEnrolled | Self::Maps(_) => Some(Remedy::CaptureAnew),
            Self::NotAttached(_) | Self::OtherProgram(_) => Some(Remedy::Reattach),
            Self::NoListener(_)
            | Self::NewAddress(_)
            | Self::FormerAddress(_)
            | Self::Sysctl(_)
            | Self::Routing(_) => Some(Remedy::CatchUp),
        }
    }

    /// What is wrong, in one word.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Netns(_) => "netns",
            Self::Cgroup(_) => "cgroup",
            Self::NotEnrolled => "pins",
            Self::NotAttached(_) => "link",
            Self::OtherProgram(_) => "program",
            Self::Maps(_) => "map",
            Self::NoListener(_) => "listener",
            Self::NewAddress(_) | Self::FormerAddress(_) => "address",
            Self::Sysctl(_) => "sysctl",
            Self::Routing(Missing::Rule | Missing::Fence) => "rule",
            Self::Routing(Missing::Route | Missing::Source) => "route",
            Self::Netlink(_) => "netlink",
            Self::SelfTest(..) => "self-test",
        }
    }
}

pub fn check(redirect: &Redirect, sandbox: &PodSandbox) -> CaptureState {
    find_gap(redirect, sandbox).into()
}

pub fn verify(redirect: &Redirect, sandbox: &PodSandbox) -> CaptureState {
    find_gap(redirect, sandbox)
        .and_then(|()| {
            let netns = redirect.open_netns(sandbox)?;
            netns.run(try_connections)?
        })
        .into()
}

impl From<Result<(), Gap>> for CaptureState {
    fn from(found: Result<(), Gap>) -> Self {
        match found {
            Ok(()) => Self::Captured,
            Err(gap) => Self::NotCaptured {
                why: gap.to_string(),
            },
        }
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

/// The first thing that is not as capture needs it.
pub fn find_gap(redirect: &Redirect, sandbox: &PodSandbox) -> Result<(), Gap> {
    let netns = redirect.open_netns(sandbox)?;
    let cgroup = Cgroup::open(&sandbox.cgroup)?;
    let generation = newest(redirect, sandbox).ok_or(Gap::NotEnrolled)?;
    check_links(&generation, &netns, &cgroup)?;
    for (name, tag) in LINKS.into_iter().zip(redirect.tags()?) {
        check_program(name, *tag, &generation)?;
    }
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
    LINKS
        .into_iter()
        .try_for_each(|name| check_link(name, generation, netns, cgroup))
}

/// Those of the links that are not attached to the pod, or not with the program of this tag.
pub fn faulty_links(
    tags: &[u64],
    generation: &Generation,
    netns: &Netns,
    cgroup: &Cgroup,
) -> Vec<&'static str> {
    let links = LINKS.into_iter().zip(tags);
    let faulty = links.filter(|(name, tag)| {
        check_link(name, generation, netns, cgroup).is_err()
            || check_program(name, **tag, generation).is_err()
    });
    faulty.map(|(name, _)| name).collect()
}

fn check_link(
    name: &'static str,
    generation: &Generation,
    netns: &Netns,
    cgroup: &Cgroup,
) -> Result<(), Gap> {
    let wanted = match name {
        "steer" => Attachment::Netns(netns.id().inode()),
        _ => Attachment::Cgroup(cgroup.id()),
    };
    let attachment = PinnedLink::open(&generation.path(name))
        .and_then(|link| link.attachment())
        .unwrap_or(Attachment::Nothing);
    if attachment == wanted {
        Ok(())
    } else {
        Err(Gap::NotAttached(name))
    }
}

/// Checks that what is attached is the program with this tag.
fn check_program(name: &'static str, tag: u64, generation: &Generation) -> Result<(), Gap> {
    match PinnedLink::open(&generation.path(name)).and_then(|link| link.tag()) {
        Ok(attached) if attached != tag => Err(Gap::OtherProgram(name)),
        _ => Ok(()),
    }
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
            return Err(missing.into());
        }
    }
    for (sysctl, value) in SYSCTLS {
        if sysctl.get().is_some_and(|current| current != value) {
            return Err(Gap::Sysctl(sysctl.0));
        }
    }
    Ok(())
}

/// In the calling thread's namespace.
fn try_connections() -> Result<(), Gap> {
    for family in NamespaceAddresses::read(&Netlink::connect()?)?.families {
        self_test::connect(family).map_err(|error| Gap::SelfTest(family, error))?;
    }
    Ok(())
}
