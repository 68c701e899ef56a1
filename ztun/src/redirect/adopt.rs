//! Taking over what an earlier daemon left in the kernel for a pod, without a change to it.

use std::{io, sync::Arc};

use thiserror::Error;

use super::{
    AddressFollower, CapturedPod, PodId, PodNetns, PodSandbox, ProgramsError, Redirect,
    cgroup::Cgroup,
    changes::Changes,
    listeners,
    maps::PodMaps,
    netlink::family_of,
    netns::Netns,
    programs::DIGEST,
    rewritten::Rewritten,
    state::{self, Gap},
};
use crate::proxy::pod::{PodAddresses, PodListeners};

/// Why an earlier capture can't be taken over as it is: then the pod is captured anew.
#[derive(Debug, Error)]
pub enum Unfit {
    #[error("nothing of it is pinned")]
    Absent,
    #[error("a capture was under way when its daemon ended")]
    HalfDone,
    #[error("its programs are another version's, or their attachment was not finished")]
    OtherPrograms,
    #[error("it is not whole: {0}")]
    Gap(#[from] Gap),
    #[error(transparent)]
    Maps(#[from] ProgramsError),
    #[error("cannot read it: {0}")]
    Read(io::Error),
    #[error("cannot listen in the pod: {0}")]
    Listen(io::Error),
}

impl Redirect {
    /// Takes a pod's capture over, and gives it listeners in place of those that it lacks.
    ///
    /// The addresses and routes are as the earlier daemon left them, until the follower has caught
    /// up. `listeners` are those of the earlier daemon; they are left where they are on an error.
    pub(super) fn adopt(
        &self,
        sandbox: &PodSandbox,
        netns: Netns,
        cgroup: &Cgroup,
        listeners: &mut PodListeners,
    ) -> Result<CapturedPod, Unfit> {
        let generations = self.pins.generations(&PodId::of(sandbox));
        let generation = match &generations[..] {
            [] => return Err(Unfit::Absent),
            [generation] => generation,
            _ => return Err(Unfit::HalfDone),
        };
        if !generation.is_of(DIGEST) {
            return Err(Unfit::OtherPrograms);
        }
        state::check_links(generation, &netns, cgroup)?;
        let mut maps = PodMaps::open(generation)?;
        let own = maps.addresses()?.into_iter().collect::<Vec<_>>();
        let rewritten = Rewritten::of_generation(generation).map_err(Unfit::Read)?;

        let families: Vec<_> = own.iter().map(|&ip| family_of(ip)).collect();
        let lacking = listeners::lacking(&families, listeners);
        let (later, opened) = netns
            .visit(&self.home, || {
                let later = Changes::subscribe()?;
                let opened = listeners::open(&lacking).map_err(io::Error::other)?;
                Ok((later, opened))
            })
            .map_err(Unfit::Listen)?;
        // Those that came with the pod are in the map already.
        maps.add_listeners(&opened)?;
        let mut listeners = std::mem::take(listeners);
        listeners.append(opened);

        let addresses = PodAddresses::new(own);
        let sockets = Arc::new(PodNetns::new(
            netns,
            addresses.clone(),
            rewritten,
            Arc::clone(&self.home),
        ));
        let follower =
            AddressFollower::behind(Arc::clone(&sockets), later, maps, addresses.clone());
        Ok(CapturedPod {
            addresses,
            sockets,
            listeners,
            follower,
        })
    }
}
