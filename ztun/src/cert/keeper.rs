//! The task that keeps one identity's certificate fresh: one request at a time, for as long as it is retained.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::watch;

use super::{
    CaError, CertificateAuthority, CertificateRequest, CertificateSettings, IssuedChain,
    WorkloadCertificate,
    clock::{Clock, rfc3339},
    failures::{FailureLog, Failures},
    key::WorkloadKey,
    metrics::RequestMetrics,
    requests::{Requests, Waiting, somebody_waits},
    rotation,
    x509::Facts,
};
use crate::{mesh::Identity, observe::rate_limit::RateLimit};

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
    pub requests: Requests,
    pub metrics: RequestMetrics,
    pub failures: FailureLog,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The last one issued; may have expired.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    pub rotates_at: Option<OffsetDateTime>,
    /// From then on it is alarming that it has not been replaced.
    pub warns_at: Option<OffsetDateTime>,
    /// Those since the last success.
    pub failures: Option<Failures>,
}

/// Where an identity's certificate is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Awaited,
    Valid,
    /// Two thirds of its life are over, and it should have been replaced at half.
    Expiring,
    Expired,
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub identity: Identity,
    pub shared: Arc<Shared>,
    pub state: watch::Sender<State>,
    pub waiting: Arc<Waiting>,
    /// For failures that are this identity's own.
    pub log_limit: RateLimit,
}

impl State {
    pub(super) fn valid_at(&self, now: OffsetDateTime) -> Option<&Arc<WorkloadCertificate>> {
        self.certificate
            .as_ref()
            .filter(|certificate| now < certificate.not_after)
    }

    pub(super) fn phase_at(&self, now: OffsetDateTime) -> Phase {
        match (&self.certificate, self.warns_at) {
            (None, _) => Phase::Awaited,
            (Some(certificate), _) if now >= certificate.not_after => Phase::Expired,
            (Some(_), Some(warns_at)) if now >= warns_at => Phase::Expiring,
            (Some(_), _) => Phase::Valid,
        }
    }
}

impl Keeper {
    pub(super) async fn run(self) {
        loop {
            match self.renew().await {
                Ok(certificate) => {
                    let rotates_at = self.put_in_force(certificate);
                    self.sleep_until(rotates_at).await;
                }
                Err(error) => {
                    let pause = self.failed(error);
                    self.pause(pause).await;
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
            metrics,
            ..
        } = &*self.shared;
        let _turn = requests.turn(&self.waiting).await;
        let key = WorkloadKey::generate(&self.identity)?;
        let request = CertificateRequest {
            identity: self.identity.clone(),
            csr: key.request(&self.identity)?,
            lifetime: settings.lifetime,
        };
        metrics.asked();
        let issued = tokio::time::timeout(settings.request_timeout, ca.issue(&request))
            .await
            .map_err(|_| CaError::Timeout {
                ca: ca.to_string(),
                waited: settings.request_timeout,
            })??;
        let now = clock.now();
        self.check_dates(&issued, now)?;
        let certificate = WorkloadCertificate::new(
            self.identity.clone(),
            &key,
            issued,
            Arc::clone(&settings.trust),
            settings.key_exchange,
            now,
        )?;
        // Before it is in force: its peers will have certificates of the same roots.
        let learnt = settings.trust.answered(&self.identity, &certificate.roots);
        learnt.map_err(|error| CaError::Unusable {
            identity: self.identity.clone(),
            reason: error.to_string(),
        })?;
        Ok(certificate)
    }

    /// A certificate out of its time mostly means that the CA's clock or this node's is wrong.
    fn check_dates(&self, issued: &IssuedChain, now: OffsetDateTime) -> Result<(), CaError> {
        let unusable = |reason: String| CaError::Unusable {
            identity: self.identity.clone(),
            reason,
        };
        let facts = Facts::of(&issued.leaf).map_err(|error| unusable(error.to_string()))?;
        let problem = if now < facts.not_before {
            format!("it is not valid before {}", rfc3339(facts.not_before))
        } else if now >= facts.not_after {
            format!("it expired at {}", rfc3339(facts.not_after))
        } else {
            return Ok(());
        };
        Err(unusable(format!(
            "{problem}, and this node's clock says {}; check both clocks",
            rfc3339(now)
        )))
    }

    fn put_in_force(&self, certificate: WorkloadCertificate) -> OffsetDateTime {
        let now = self.shared.clock.now();
        let remaining = (certificate.not_after - now).unsigned_abs();
        let rotates_at = now + rotation::rotate_after(remaining, rand::random());
        tracing::info!(identity = %self.identity, serial = certificate.serial, not_after = %certificate.not_after, %rotates_at, "certificate issued");
        self.state.send_replace(State {
            certificate: Some(Arc::new(certificate)),
            rotates_at: Some(rotates_at),
            warns_at: Some(now + rotation::warn_after(remaining)),
            failures: None,
        });
        self.shared.changes.send_replace(());
        rotates_at
    }

    /// The last certificate stays. How long to pause.
    fn failed(&self, error: CaError) -> Duration {
        let now = self.shared.clock.now();
        self.shared.metrics.failed(&error);
        self.state.send_modify(|state| {
            state.failures = Some(Failures::after(state.failures.take(), error, now));
        });
        self.shared.changes.send_replace(());
        let state = self.state.borrow();
        let attempts = state
            .failures
            .as_ref()
            .map_or(1, |failures| failures.attempts);
        let pause = rotation::backoff(attempts, rand::random());
        self.shared.failures.write(self, &state, now, pause);
        pause
    }

    /// Less than `pause` if a connection waits.
    async fn pause(&self, pause: Duration) {
        let waited_for = async {
            tokio::time::sleep(rotation::BACKOFF_WAITED_FOR).await;
            somebody_waits(&self.waiting).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = waited_for => {}
        }
    }

    async fn sleep_until(&self, at: OffsetDateTime) {
        let mut waiting = self.waiting.subscribe();
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
                // Somebody found the certificate expired: look at the clock now.
                _ = waiting.changed() => {}
            }
        }
    }
}
