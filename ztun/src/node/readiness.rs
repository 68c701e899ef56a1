//! Whether this node can serve: mesh state is there, and every enrolled pod is captured and has a
//! valid certificate.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ::http::request::Parts;
use time::OffsetDateTime;

use super::{pods::Pods, verification::Verification};
use crate::{
    cert::CertificateManager,
    mesh::Mesh,
    observe::http::{self, Answer},
};

#[derive(Debug)]
pub struct Readiness {
    pub mesh: Arc<Mesh>,
    pub pods: Arc<Pods>,
    pub certificates: Arc<CertificateManager>,
    pub verification: Arc<Verification>,
    pub draining: AtomicBool,
    pub restored: AtomicBool,
}

impl Readiness {
    pub fn new(
        mesh: &Arc<Mesh>,
        certificates: &Arc<CertificateManager>,
        verification: &Arc<Verification>,
    ) -> Self {
        Self {
            mesh: mesh.clone(),
            pods: verification.pods().clone(),
            certificates: certificates.clone(),
            verification: verification.clone(),
            draining: AtomicBool::new(false),
            restored: AtomicBool::new(false),
        }
    }

    /// Answers whoever probes it.
    pub fn handler(self: Arc<Self>) -> impl Fn(&Parts) -> Option<Answer> {
        http::readiness(move || self.missing())
    }

    /// What is missing, in the operator's words; empty means ready.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            missing.push("draining".to_owned());
        }
        if !self.mesh.synced() {
            missing.push("mesh state: the source has not delivered anything yet".to_owned());
        }
        if !self.restored.load(Ordering::Relaxed) {
            missing.push("pods of the previous run are not taken over yet".to_owned());
        }
        let snapshot = self.mesh.snapshot();
        let certificates = self.certificates.status();
        let now = OffsetDateTime::now_utc();
        for entry in self.pods.list() {
            let pod = &entry.sandbox.pod;
            let Some(workload) = snapshot.workload_by_pod(pod) else {
                missing.push(format!(
                    "{pod}: the mesh state doesn't know this enrolled pod"
                ));
                continue;
            };
            let kept = certificates
                .iter()
                .find(|certificate| certificate.identity == workload.identity);
            let valid = kept
                .and_then(|kept| kept.not_after)
                .is_some_and(|end| end > now);
            if !valid {
                let cause = kept.and_then(|kept| kept.error.as_deref());
                missing.push(format!(
                    "{pod}: no valid certificate of {}: {}",
                    workload.identity,
                    cause.unwrap_or("not issued yet")
                ));
            }
        }
        for (pod, why) in self.verification.uncaptured() {
            missing.push(format!("{pod}: not captured: {why}"));
        }
        missing
    }
}
