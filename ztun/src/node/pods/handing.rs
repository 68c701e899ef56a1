//! Handing all pods over, and receiving them.

use std::{collections::BTreeMap, io};

use tokio::sync::MutexGuard;

use super::{Enrolled, HandedPod, PodListeners, Pods, Record, Standing};
use crate::{
    mesh::PodName,
    redirect::{PodId, Unchanging},
};

/// While it lives, no pod is enrolled, released, or captured in another way.
pub struct Handing<'a> {
    pods: &'a Pods,
    change: MutexGuard<'a, bool>,
    capture: Unchanging<'a>,
}

impl Pods {
    /// Begins to hand over; dropping that ends it with nothing changed. Blocks until no change is
    /// under way.
    pub fn hand_over(&self) -> Handing<'_> {
        Handing {
            pods: self,
            change: self.change.blocking_lock(),
            capture: self.redirect.pause(),
        }
    }

    /// Adds to the records what was handed over, and answers the listeners of each pod.
    pub(super) fn inherit(
        &self,
        handed: Vec<(HandedPod, PodListeners)>,
        records: &mut Vec<Record>,
    ) -> BTreeMap<PodName, PodListeners> {
        let mut inherited = BTreeMap::new();
        for (handed, listeners) in handed {
            let HandedPod {
                sandbox,
                origin,
                is_former,
                ..
            } = handed;
            let pod = sandbox.pod.clone();
            if is_former {
                match self.redirect.reopen(&sandbox) {
                    Ok(netns) => self.former().push(Enrolled {
                        addresses: crate::proxy::PodAddresses::default(),
                        sandbox,
                        origin,
                        netns,
                    }),
                    Err(error) => {
                        tracing::warn!(%pod, %error, "a former sandbox stays closed until it is gone");
                    }
                }
                continue;
            }
            inherited.insert(pod.clone(), listeners);
            let is_its = |record: &Record| {
                record.standing == Standing::Enrolled
                    && PodId::of(&record.sandbox) == PodId::of(&sandbox)
            };
            if !records.iter().any(is_its) {
                let record = Record {
                    sandbox,
                    origin,
                    standing: Standing::Enrolled,
                };
                tracing::warn!(%pod, "the record of a captured pod was lost: writing it anew");
                self.keep_record(&record);
                records.retain(|other| other.sandbox.pod != pod);
                records.push(record);
            }
        }
        inherited
    }
}

impl Handing<'_> {
    /// What is handed over; the second of each says whether its pod came back in another sandbox.
    pub fn pods(&self) -> Vec<(Enrolled, bool)> {
        let former = self.pods.former().clone().into_iter();
        let enrolled = self.pods.list().into_iter().map(|entry| (entry, false));
        enrolled.chain(former.map(|entry| (entry, true))).collect()
    }

    /// The listeners of a pod that is served.
    pub fn listeners(&self, pod: &PodName) -> io::Result<PodListeners> {
        self.pods.proxy.clone_listeners(pod)
    }

    /// All of it is a successor's from now on.
    pub fn commit(mut self) {
        *self.change = true;
        self.capture.hand_over();
    }
}
