//! The task that keeps one identity's certificate fresh: one request at a time, for as long as it is retained.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    CaError, CertificateAuthority, CertificateRequest, CertificateSettings, WorkloadCertificate,
    clock::Clock, key::WorkloadKey, rotation,
};
use crate::mesh::Identity;

/// The wall clock may be set, or stand still while the host sleeps, and timers follow neither:
/// no sleep is longer than this.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// What all keepers of a manager have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub ca: Arc<dyn CertificateAuthority>,
    pub settings: CertificateSettings,
    pub clock: Arc<dyn Clock>,
    pub changes: watch::Sender<()>,
    /// Bounds the requests to the CA over all identities: a restart asks for all of them at once.
    pub requests: Semaphore,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The last one issued; may have expired.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    pub rotates_at: Option<OffsetDateTime>,
    /// The last failure since the last success.
    pub error: Option<CaError>,
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub identity: Identity,
    pub shared: Arc<Shared>,
    pub state: watch::Sender<State>,
    /// Somebody found the certificate expired: look at the clock now.
    pub overdue: Arc<Notify>,
}

impl State {
    pub(super) fn valid_at(&self, now: OffsetDateTime) -> Option<&Arc<WorkloadCertificate>> {
        self.certificate
            .as_ref()
            .filter(|certificate| now < certificate.not_after)
    }
}

impl Keeper {
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            match self.renew().await {
                Ok(certificate) => {
                    failures = 0;
                    let rotates_at = self.put_in_force(certificate);
                    self.sleep_until(rotates_at).await;
                }
                Err(error) => {
                    failures += 1;
                    let pause = rotation::backoff(failures, rand::random());
                    tracing::warn!(identity = %self.identity, %error, failures, ?pause, "no certificate issued");
                    self.state.send_modify(|state| state.error = Some(error));
                    self.shared.changes.send_replace(());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// With a new key each time: a leaked one is worth no more than one lifetime.
    async fn renew(&self) -> Result<WorkloadCertificate, CaError> {
        let Shared {
            ca,
            settings,
            clock,
            requests,
            ..
        } = &*self.shared;
        // The semaphore is never closed.
        let _permit = requests.acquire().await.ok();
        let key = WorkloadKey::generate(&self.identity)?;
        let request = CertificateRequest {
            identity: self.identity.clone(),
            csr: key.request(&self.identity)?,
            lifetime: settings.lifetime,
        };
        let issued = tokio::time::timeout(settings.request_timeout, ca.issue(&request))
            .await
            .map_err(|_| CaError::Timeout {
                ca: ca.to_string(),
                waited: settings.request_timeout,
            })??;
        let trust = Arc::clone(&settings.trust);
        let certificate =
            WorkloadCertificate::new(self.identity.clone(), &key, issued, trust, clock.now())?;
        // Before it is in force: its peers will have certificates of the same roots.
        let learnt = settings.trust.answered(&self.identity, &certificate.roots);
        learnt.map_err(|error| CaError::Unusable {
            identity: self.identity.clone(),
            reason: error.to_string(),
        })?;
        Ok(certificate)
    }

    fn put_in_force(&self, certificate: WorkloadCertificate) -> OffsetDateTime {
        let now = self.shared.clock.now();
        let remaining = (certificate.not_after - now).unsigned_abs();
        let rotates_at = now + rotation::rotate_after(remaining, rand::random());
        tracing::info!(identity = %self.identity, serial = certificate.serial, not_after = %certificate.not_after, %rotates_at, "certificate issued");
        self.state.send_replace(State {
            certificate: Some(Arc::new(certificate)),
            rotates_at: Some(rotates_at),
            error: None,
        });
        self.shared.changes.send_replace(());
        rotates_at
    }

    async fn sleep_until(&self, at: OffsetDateTime) {
        loop {
            // Negative once it is over, which has no unsigned counterpart.
            let Ok(left) = Duration::try_from(at - self.shared.clock.now()) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                () = self.overdue.notified() => {}
            }
        }
    }
}
