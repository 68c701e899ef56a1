//! Keeping a pod's capture true to the addresses that the pod has.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use thiserror::Error;
use ztun_common::{Family, Listener, MAX_ADDRESSES};

use super::{
    NetnsError, PodNetns, PrepareError, ProgramsError, addresses::NamespaceAddresses,
    changes::Changes, maps::PodMaps, netlink::Netlink, prepare,
};
use crate::proxy::pod::{PodAddresses, PodListeners};

/// Follows the addresses of one captured pod.
#[derive(Debug)]
pub struct AddressFollower {
    netns: Arc<PodNetns>,
    changes: Changes,
    maps: PodMaps,
    addresses: PodAddresses,
    /// The address that captured IPv4 connections show.
    source: Option<Ipv4Addr>,
    /// Whether nobody has looked yet.
    is_behind: bool,
}

/// What following a pod's addresses brought.
#[derive(Debug, Default)]
pub struct Followed {
    pub gained: Vec<IpAddr>,
    pub lost: Vec<IpAddr>,
    /// Of families in which the pod had no address before: connections wait there to be served.
    pub listeners: PodListeners,
    /// How many addresses the pod has beyond those that capture takes.
    pub left_out: usize,
}

/// Why a pod's capture could not be brought up to date. What was captured stays captured.
#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("another daemon has taken over")]
    HandedOver,
}

impl AddressFollower {
    pub(super) fn new(
        netns: Arc<PodNetns>,
        changes: Changes,
        maps: PodMaps,
        addresses: PodAddresses,
        source: Option<Ipv4Addr>,
    ) -> Self {
        Self {
            netns,
            changes,
            maps,
            addresses,
            source,
            is_behind: false,
        }
    }

    /// Of a capture that an earlier daemon made: what has changed since is found at once.
    pub(super) fn behind(
        netns: Arc<PodNetns>,
        changes: Changes,
        maps: PodMaps,
        addresses: PodAddresses,
    ) -> Self {
        Self {
            is_behind: true,
            ..Self::new(netns, changes, maps, addresses, None)
        }
    }

    /// Waits until the pod's addresses may have changed since the last call. Cancelled, it loses nothing.
    pub async fn changed(&self) -> io::Result<()> {
        if self.is_behind {
            return Ok(());
        }
        self.changes.next().await
    }

    pub(super) fn catch_up(&mut self) -> Result<Followed, FollowError> {
        let netns = Arc::clone(&self.netns);
        self.is_behind = false;
        netns.run(|| self.catch_up_inside())?
    }

    /// Works in the calling thread's namespace. What is left undone by an error is closed: the next
    /// call does it.
    fn catch_up_inside(&mut self) -> Result<Followed, FollowError> {
        let netlink = Netlink::connect().map_err(PrepareError::from)?;
        netlink.bring_loopback_up().map_err(PrepareError::from)?;
        let found = NamespaceAddresses::read(&netlink).map_err(PrepareError::from)?;
        let known = self.addresses.to_vec();
        let own = most_that_fit(&found.own, &known);
        let without = |of: &[IpAddr], others: &[IpAddr]| -> Vec<IpAddr> {
            of.iter()
                .filter(|ip| !others.contains(ip))
                .copied()
                .collect()
        };
        let (gained, lost) = (without(&own, &known), without(&known, &own));

        // The daemon may take for the pod's own only what `steer` does, or it would feed itself.
        self.addresses.set(without(&known, &lost));
        self.maps.set_addresses(&own)?;
        self.addresses.set(own.clone());

        let mut changes = prepare::Changes::default();
        let source = found.source(self.source);
        let families = self.closed(&found.families)?;
        let listeners = prepare::open(&families, &mut changes)?;
        prepare::route(&netlink, &found, source, &mut changes)?;
        self.source = source.or(self.source);
        self.maps.add_listeners(&listeners)?;
        Ok(Followed {
            gained,
            lost,
            listeners,
            left_out: found.own.len() - own.len(),
        })
    }

    /// Those of the families that lack a listener.
    fn closed(&self, families: &[Family]) -> Result<Vec<Family>, ProgramsError> {
        let mut closed = Vec::new();
        for &family in families {
            for listener in Listener::ALL {
                if !self.maps.has_listener(listener, family)? {
                    closed.push(family);
                    break;
                }
            }
        }
        Ok(closed)
    }
}

/// As many addresses as capture takes; those that are known already stay.
fn most_that_fit(found: &[IpAddr], known: &[IpAddr]) -> Vec<IpAddr> {
    let mut own = found.to_vec();
    if own.len() > MAX_ADDRESSES as usize {
        own.sort_by_key(|ip| !known.contains(ip));
        own.truncate(MAX_ADDRESSES as usize);
    }
    own
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn addresses(hosts: std::ops::Range<u8>) -> Vec<IpAddr> {
        hosts
            .map(|host| Ipv4Addr::new(10, 0, 0, host).into())
            .collect()
    }

    #[test]
    fn every_address_is_taken_while_there_is_room() {
        let found = addresses(0..32);
        assert_eq!(most_that_fit(&found, &[]), found);
    }

    #[test]
    fn when_there_are_too_many_the_known_ones_stay() {
        let known = addresses(8..40);
        let kept = most_that_fit(&addresses(0..40), &known);
        assert_eq!(kept, known);
    }
}
