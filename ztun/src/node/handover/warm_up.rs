//! What a successor does before it commits: it gets what it needs to serve as well as its predecessor.

use tokio::time::timeout;

use super::{Inheritance, TakeOverError};
use crate::{
    cert::CertificateManager,
    config::Timeouts,
    mesh::{Identity, Mesh},
};

/// Certificates that are kept until the pods keep them.
#[derive(Debug)]
pub struct Kept<'a> {
    certificates: &'a CertificateManager,
    identities: Vec<Identity>,
}

/// Waits (bounded) for the mesh state and for the certificate of every pod that is handed over.
///
/// What can't be had is an error only if the predecessor has it: one that lacks something itself
/// is better replaced.
pub async fn warm_up<'a>(
    inheritance: &Inheritance,
    mesh: &Mesh,
    certificates: &'a CertificateManager,
    timeouts: &Timeouts,
) -> Result<Kept<'a>, TakeOverError> {
    let mut missing = Vec::new();
    if timeout(timeouts.mesh_state, synced(mesh)).await.is_err() {
        missing.push("the mesh state is not read yet".to_owned());
    }
    let snapshot = mesh.snapshot();
    let mut kept = Kept {
        certificates,
        identities: Vec::new(),
    };
    for pod in inheritance.pods().filter(|pod| !pod.is_former) {
        if let Some(workload) = snapshot.workload_by_pod(&pod.sandbox.pod) {
            // All are asked for before the first is waited for.
            certificates.retain(&workload.identity);
            kept.identities.push(workload.identity.clone());
        }
    }
    for identity in &kept.identities {
        if let Err(error) = certificates.certificate(identity).await {
            missing.push(error.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(kept);
    }
    if inheritance.is_ready {
        return Err(TakeOverError::NotReady(missing));
    }
    tracing::warn!(
        ?missing,
        "taking over although something is missing: the running daemon is not ready either"
    );
    Ok(kept)
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        for identity in &self.identities {
            self.certificates.release(identity);
        }
    }
}

async fn synced(mesh: &Mesh) {
    let mut versions = mesh.versions();
    while !mesh.synced() {
        if versions.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
