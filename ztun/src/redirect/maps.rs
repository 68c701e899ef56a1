//! The maps that tell a pod's programs which addresses are its own, and where its listeners are.

use std::{collections::HashSet, fmt, net::IpAddr, os::fd::AsRawFd as _};

use aya::maps::{HashMap, Map, MapData, MapError, SockHash};
use ztun_common::{Address, Family, Listener, ListenerKey, MAX_ADDRESSES};

use super::{listeners, pins::Generation, programs::ProgramsError, with_causes};
use crate::proxy::pod::PodListeners;

const ADDRESSES: &str = "ADDRESSES";
const LISTENERS: &str = "LISTENERS";

/// The maps of one capture of one pod, open: they are still that capture's when another one of the
/// same pod has taken its pins' place.
pub struct PodMaps {
    addresses: HashMap<MapData, [u8; 16], u8>,
    listeners: SockHash<MapData, u32>,
}

impl PodMaps {
    pub fn open(generation: &Generation) -> Result<Self, ProgramsError> {
        let open =
            |name| MapData::from_pin(generation.path(name)).map_err(|error| failed(name, &error));
        Ok(Self {
            addresses: Map::HashMap(open(ADDRESSES)?)
                .try_into()
                .map_err(|error| failed(ADDRESSES, &error))?,
            listeners: Map::SockHash(open(LISTENERS)?)
                .try_into()
                .map_err(|error| failed(LISTENERS, &error))?,
        })
    }

    /// The addresses that the programs take for the pod's own.
    pub fn addresses(&self) -> Result<HashSet<IpAddr>, ProgramsError> {
        self.addresses
            .keys()
            .map(|key| Ok(Address::from(key?).into()))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(ADDRESSES, &error))
    }

    /// Makes `own` the pod's addresses. First it forgets the others: they may be another pod's by now.
    pub fn set_addresses(&mut self, own: &[IpAddr]) -> Result<(), ProgramsError> {
        if own.len() > MAX_ADDRESSES as usize {
            return Err(ProgramsError::TooManyAddresses(own.len()));
        }
        let key = |&ip: &IpAddr| Address::from(ip).to_bytes();
        let known = self.addresses()?;
        for former in known.iter().filter(|ip| !own.contains(ip)) {
            self.addresses
                .remove(&key(former))
                .map_err(|error| failed(ADDRESSES, &error))?;
        }
        for new in own.iter().filter(|ip| !known.contains(ip)) {
            self.addresses
                .insert(key(new), 1, 0)
                .map_err(|error| failed(ADDRESSES, &error))?;
        }
        Ok(())
    }

    /// Whether this listener lives: the kernel takes out one that is closed.
    pub fn has_listener(&self, listener: Listener, family: Family) -> Result<bool, ProgramsError> {
        let living: HashSet<u32> = self
            .listeners
            .keys()
            .collect::<Result<_, _>>()
            .map_err(|error| failed(LISTENERS, &error))?;
        Ok(living.contains(&ListenerKey::new(listener, family).index()))
    }

    /// Adds listeners, each in the place of the former of its kind and family.
    pub fn add_listeners(&mut self, sockets: &PodListeners) -> Result<(), ProgramsError> {
        for (key, socket) in listeners::keyed(sockets) {
            self.listeners
                .insert(key.index(), socket.as_raw_fd(), 0)
                .map_err(|error| failed(LISTENERS, &error))?;
        }
        Ok(())
    }
}

impl fmt::Debug for PodMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodMaps").finish_non_exhaustive()
    }
}

fn failed(map: &'static str, error: &MapError) -> ProgramsError {
    ProgramsError::Map {
        map,
        reason: with_causes(error),
    }
}
