//! Workloads of endpoints that are addresses and nothing more.

use std::{net::IpAddr, sync::Arc};

use super::Services;
use crate::{
    mesh::WorkloadUid,
    source::translate::{namespace::Context, workload},
};

impl Services {
    /// The workload of a bare address that `owner` lists, which is made where there is none yet.
    pub(super) fn acquire(
        &mut self,
        owner: &str,
        address: IpAddr,
        context: &mut Context<'_>,
    ) -> Option<WorkloadUid> {
        // It fails for names that are refused when objects are read.
        let workload =
            workload::of_address(&self.namespace, owner, address, context.settings).ok()?;
        let uid = workload.uid.clone();
        let lists = self.addresses.entry(uid.clone()).or_insert_with(|| {
            context.snapshot.insert_workload(Arc::new(workload));
            0
        });
        *lists += 1;
        Some(uid)
    }

    pub(super) fn release<'a>(
        &mut self,
        uids: impl IntoIterator<Item = &'a WorkloadUid>,
        context: &mut Context<'_>,
    ) {
        for uid in uids {
            if let Some(lists) = self.addresses.get_mut(uid) {
                *lists -= 1;
                if *lists == 0 {
                    self.addresses.remove(uid);
                    context.snapshot.remove_workload(uid);
                }
            }
        }
    }
}
