//! Node authorization: a node gets certificates for the workloads that the mesh state places on it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{authentication::CallerNode, refusal::Refusal};
use crate::mesh::{Identity, Mesh, Snapshot};

#[derive(Debug)]
pub struct Placements {
    mesh: Arc<Mesh>,
    index: Mutex<Option<Index>>,
}

/// Made anew for each snapshot, when somebody asks: a large mesh is not searched for each request.
#[derive(Debug)]
struct Index {
    of: Arc<Snapshot>,
    identities: HashMap<Arc<str>, HashSet<Identity>>,
}

impl Placements {
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            index: Mutex::default(),
        }
    }

    /// The name of the caller's node.
    pub fn node_of(&self, caller: &CallerNode) -> Result<Arc<str>, Refusal> {
        let (pod, uid) = match caller {
            CallerNode::Named(node) => return Ok(Arc::clone(node)),
            CallerNode::OfPod { pod, uid } => (pod, uid),
        };
        if !self.mesh.synced() {
            return Err(Refusal::MeshNotRead);
        }
        let snapshot = self.mesh.snapshot();
        snapshot
            .workload_by_pod(pod)
            // A successor of the same name may be elsewhere.
            .filter(|workload| workload.pod_uid == *uid && !workload.node.is_empty())
            .map(|workload| Arc::clone(&workload.node))
            .ok_or_else(|| Refusal::CallerNotInMesh(pod.clone()))
    }

    /// Refuses unless a workload of `identity` is on `node`.
    pub fn authorize(&self, node: &Arc<str>, identity: &Identity) -> Result<(), Refusal> {
        if !self.mesh.synced() {
            return Err(Refusal::MeshNotRead);
        }
        let snapshot = self.mesh.snapshot();
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match &mut *index {
            Some(index) if Arc::ptr_eq(&index.of, &snapshot) => index,
            outdated => outdated.insert(Index::new(snapshot)),
        };
        match index.identities.get(node) {
            None => Err(Refusal::NodeNotInMesh(Arc::clone(node))),
            Some(placed) if !placed.contains(identity) => Err(Refusal::NotOnNode {
                identity: identity.clone(),
                node: Arc::clone(node),
            }),
            Some(_) => Ok(()),
        }
    }
}

impl Index {
    fn new(of: Arc<Snapshot>) -> Self {
        let mut identities: HashMap<_, HashSet<_>> = HashMap::new();
        // A pod that is not scheduled yet has no node.
        for workload in of.workloads().filter(|workload| !workload.node.is_empty()) {
            let placed = identities.entry(Arc::clone(&workload.node)).or_default();
            placed.insert(workload.identity.clone());
        }
        Self { of, identities }
    }
}
