//! What a process gives up before it does anything else: core dumps, which would hold private keys,
//! and every capability that it doesn't need.

use std::{collections::HashSet, fmt, net::SocketAddr};

use caps::{CapSet, Capability, errors::CapsError};
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};
use serde::{Deserialize, Serialize};

use crate::config::{CaConfig, Config};

/// The first port that takes no capability to listen on (`net.ipv4.ip_unprivileged_port_start`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// A capability, and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    capability: Capability,
    purpose: &'static str,
}

/// What `ztun node` does all its life. `CAP_SYS_ADMIN` includes all of `CAP_BPF` and `CAP_PERFMON`.
/// Of files it reads only those that its user owns or anybody may read.
const OF_NODE: [Need; 3] = [
    Need {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "attach programs, set routes and sysctls, mark sockets and make them transparent",
    },
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        purpose: "enter pods' network namespaces for each connection, and load programs and maps",
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "find the network namespaces of pods that run already, by their processes",
    },
];

const ON_LOW_PORTS: [Need; 1] = [Need {
    capability: Capability::CAP_NET_BIND_SERVICE,
    purpose: "listen on a port below 1024, as configured",
}];

/// The capabilities that a process has kept, for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Privileges {
    pub capabilities: Vec<String>,
    /// Needed, but it was started without them.
    #[serde(default)]
    pub missing: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    #[error("core dumps, which would hold private keys, can't be switched off: {0}")]
    CoreDumps(nix::Error),
    #[error("can't set no_new_privs: {0}")]
    NoNewPrivileges(nix::Error),
    #[error("can't give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
}

/// What `ztun node` needs with this configuration.
pub fn of_node(config: &Config) -> Vec<Need> {
    let listens = [config.readiness_address, config.metrics_address];
    [&OF_NODE[..], to_listen(&listens)].concat()
}

/// What `ztun ca` needs with this configuration.
pub fn of_ca(config: &CaConfig) -> Vec<Need> {
    let listens = [
        config.listen,
        config.readiness_address,
        config.metrics_address,
    ];
    to_listen(&listens).to_vec()
}

/// Switches core dumps off and keeps these capabilities alone, with no way to others, not even by
/// running another program.
///
/// Call it while the process has one thread: threads that run already keep what they have.
pub fn restrict(needs: &[Need]) -> Result<Privileges, PrivilegesError> {
    forbid_core_dumps().map_err(PrivilegesError::CoreDumps)?;
    let privileges = keep(needs)?;
    prctl::set_no_new_privs().map_err(PrivilegesError::NoNewPrivileges)?;
    Ok(privileges)
}

fn to_listen(on: &[SocketAddr]) -> &'static [Need] {
    // Port 0 is any free one, and those are high.
    let low = 1..FIRST_UNPRIVILEGED_PORT;
    if on.iter().any(|address| low.contains(&address.port())) {
        &ON_LOW_PORTS
    } else {
        &[]
    }
}

/// A core pattern that is a pipe ignores the limit, and whoever may trace the process ignores neither:
/// together they leave only who has `CAP_SYS_PTRACE`.
fn forbid_core_dumps() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}

fn keep(needs: &[Need]) -> Result<Privileges, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let (kept, missing): (Vec<&Need>, Vec<&Need>) = needs
        .iter()
        .partition(|need| permitted.contains(&need.capability));
    let kept_set: HashSet<Capability> = kept.iter().map(|need| need.capability).collect();
    // Without it, no_new_privs alone has to keep the bounding set from mattering.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        caps::raise(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept_set) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept_set)?;
    caps::set(None, CapSet::Permitted, &kept_set)?;
    let name = |need: &&Need| need.capability.to_string();
    Ok(Privileges {
        capabilities: kept.iter().map(name).collect(),
        missing: missing.iter().map(ToString::to_string).collect(),
    })
}

impl Privileges {
    pub fn log(&self) {
        let kept = self.capabilities.join(" ");
        tracing::info!(
            kept,
            "every other capability is given up, and core dumps are off"
        );
        for missing in &self.missing {
            tracing::warn!(missing, "started without a capability that is needed");
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (to {})", self.capability, self.purpose)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use nix::sys::resource::getrlimit;

    use super::*;

    /// Capabilities are a thread's own: what a test gives up is given up by its thread alone.
    fn on_a_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(test).join().unwrap())
    }

    #[test]
    fn what_is_not_needed_is_gone_from_every_set() {
        on_a_thread(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            let privileges = restrict(&OF_NODE).unwrap();
            let expected: HashSet<Capability> = OF_NODE
                .iter()
                .map(|need| need.capability)
                .filter(|capability| before.contains(capability))
                .collect();
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert_eq!(caps::read(None, set).unwrap(), expected, "{set:?}");
            }
            for set in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
            if before.contains(&Capability::CAP_SETPCAP) {
                assert_eq!(caps::read(None, CapSet::Bounding).unwrap(), expected);
            }
            assert!(prctl::get_no_new_privs().unwrap());
            assert_eq!(privileges.capabilities.len(), expected.len());
            assert_eq!(
                privileges.missing.len(),
                OF_NODE.len() - privileges.capabilities.len()
            );
        });
    }

    #[test]
    fn what_was_never_there_is_missing_with_its_purpose() {
        on_a_thread(|| {
            restrict(&[]).unwrap();
            let privileges = restrict(&OF_NODE).unwrap();
            assert!(privileges.capabilities.is_empty());
            let missing = &privileges.missing[1];
            assert!(
                missing.starts_with("CAP_SYS_ADMIN (to enter pods'"),
                "{missing}"
            );
        });
    }

    #[test]
    fn no_core_is_dumped() {
        on_a_thread(|| restrict(&[]).unwrap());
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
