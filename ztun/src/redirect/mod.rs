//! Captures pods: kernel programs, routes and sysctls in their network namespaces. The only home of `unsafe`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::mesh::PodName;

/// What a container runtime (or an operator) says of a pod that is to be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSandbox {
    pub pod: PodName,
    /// The pod's UID in Kubernetes; empty where there is none.
    #[serde(default)]
    pub uid: String,
    /// The container runtime's ID of this sandbox; a pod that is restarted gets another.
    #[serde(default)]
    pub sandbox_id: String,
    /// The pod's network namespace, such as `/run/netns/cni-…` or `/proc/123/ns/net`.
    pub netns: PathBuf,
    /// The pod's cgroup directory (cgroup v2).
    pub cgroup: PathBuf,
}
