//! Keeps one fresh certificate for every identity that the node hosts.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{
    CertificateAuthority, KeyExchange, PeerError, Trust, WorkloadCertificate,
    clock::{Clock, rfc3339},
    failures::FailureLog,
    inspect::{CertificateDetails, Judgement},
    keeper::{Keeper, Phase, Shared, State},
    metrics::RequestMetrics,
    requests::{Requests, Waiting, Waits},
    trust::OwnDomains,
    x509,
};
use crate::{
    mesh::{Identity, TrustDomain},
    observe::rate_limit::RateLimit,
};

#[derive(Clone, Debug)]
pub struct CertificateSettings {
    /// Whose peers are let in, which the CA's answers add to; which of their identities may enter
    /// is policy's business.
    pub trust: Arc<Trust>,
    pub key_exchange: KeyExchange,
    /// Asked of the CA.
    pub lifetime: Duration,
    /// How long [`CertificateManager::certificate`] waits.
    pub wait: Duration,
    /// How long one request to the CA may take.
    pub request_timeout: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    pub identity: Identity,
    /// `None` while the first certificate is still awaited.
    pub serial: Option<String>,
    pub issuer: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotates_at: Option<OffsetDateTime>,
    /// The last failure since the last success.
    pub error: Option<String>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    #[error("no certificate for {identity} after {waited:?} of waiting for {cause}")]
    NotReady {
        identity: Identity,
        waited: Duration,
        cause: String,
    },
    #[error(
        "the certificate of {identity} expired at {} and no new one came within {waited:?} of waiting for {cause}",
        rfc3339(*at)
    )]
    Expired {
        identity: Identity,
        at: OffsetDateTime,
        waited: Duration,
        cause: String,
    },
    #[error("no certificate is kept for {identity}: no enrolled workload of this node has it")]
    NotRetained { identity: Identity },
}

/// Requests certificates on the runtime that it was made on; every other method works from any thread.
#[derive(Debug)]
pub struct CertificateManager {
    shared: Arc<Shared>,
    kept: Mutex<BTreeMap<Identity, Kept>>,
    runtime: Handle,
}

#[derive(Debug)]
struct Kept {
    holders: usize,
    state: watch::Receiver<State>,
    waiting: Arc<Waiting>,
    keeper: AbortHandle,
}

impl CertificateSettings {
    /// Trusts the CA's roots for `trust_domain`. A day's lifetime, as the peer's; ten seconds for a
    /// request and for whoever waits for one.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust: Trust::new(OwnDomains::new(trust_domain, &[])),
            key_exchange: KeyExchange::default(),
            lifetime: Duration::from_hours(24),
            wait: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl CertificateManager {
    /// Call it on the runtime that is to talk to the CA; it panics outside of one.
    pub fn new(
        ca: Arc<dyn CertificateAuthority>,
        settings: CertificateSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                ca,
                settings,
                clock,
                changes: watch::Sender::new(()),
                requests: Requests::default(),
                metrics: RequestMetrics::default(),
                failures: FailureLog::default(),
            }),
            kept: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// The current certificate of `identity`, waited for (bounded) if it is not there yet.
    ///
    /// Who waits comes first: the identity's request overtakes those that nobody waits for, and a
    /// pause after failures ends early (see [`super::rotation::BACKOFF_WAITED_FOR`]).
    pub async fn certificate(
        &self,
        identity: &Identity,
    ) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        let not_retained = || CertificateError::NotRetained {
            identity: identity.clone(),
        };
        let (mut state, waiting) = {
            let kept = self.kept();
            let kept = kept.get(identity).ok_or_else(not_retained)?;
            if let Some(certificate) = self.valid(&kept.state.borrow()) {
                return Ok(certificate);
            }
            (kept.state.clone(), Arc::clone(&kept.waiting))
        };
        let _waits = Waits::on(&waiting);
        let renewed = async {
            let state = state.wait_for(|state| self.valid(state).is_some()).await;
            state.map(|state| state.certificate.clone())
        };
        let outcome = tokio::time::timeout(self.shared.settings.wait, renewed).await;
        match outcome {
            Ok(Ok(certificate)) => certificate.ok_or_else(not_retained),
            // Released while waiting.
            Ok(Err(_)) => Err(not_retained()),
            Err(_) => Err(self.too_late(identity, &state.borrow())),
        }
    }

    /// Starts keeping a certificate for `identity`; call once a hosted workload. Counted: [`Self::release`] undoes one.
    pub fn retain(&self, identity: &Identity) {
        match self.kept().entry(identity.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().holders += 1,
            Entry::Vacant(entry) => {
                entry.insert(self.keep(identity));
            }
        }
        self.shared.changes.send_replace(());
    }

    /// The last release ends the renewal; connections that use the certificate go on.
    pub fn release(&self, identity: &Identity) {
        let mut all = self.kept();
        let Some(kept) = all.get_mut(identity) else {
            return;
        };
        kept.holders -= 1;
        if kept.holders == 0 {
            all.remove(identity);
            self.shared.settings.trust.forget(identity);
        }
        drop(all);
        self.shared.changes.send_replace(());
    }

    /// Whether `serial` is of the newest certificate of `identity`.
    pub fn is_newest(&self, identity: &Identity, serial: &str) -> bool {
        let kept = self.kept();
        let Some(kept) = kept.get(identity) else {
            return false;
        };
        let state = kept.state.borrow();
        state
            .certificate
            .as_ref()
            .is_some_and(|newest| newest.serial == serial)
    }

    /// Whom this node believes.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.shared.settings.trust
    }

    /// Every kept identity, in order.
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.kept()
            .iter()
            .map(|(identity, kept)| status(identity, &kept.state.borrow()))
            .collect()
    }

    /// Every kept identity with what is public of its certificate.
    pub fn details(&self) -> Vec<CertificateDetails> {
        let kept: Vec<_> = {
            let kept = self.kept();
            let all = kept.iter().map(|(identity, kept)| {
                let state = kept.state.borrow();
                (status(identity, &state), state.certificate.clone())
            });
            all.collect()
        };
        let now = self.shared.clock.now();
        let trusted = self.trust().bundle();
        kept.into_iter()
            .map(|(status, certificate)| {
                CertificateDetails::of(status, certificate.as_deref(), &trusted, now)
            })
            .collect()
    }

    /// What this node says of a PEM text with a leaf and its chain.
    pub fn judge(&self, chain_pem: &str) -> Result<Judgement, PeerError> {
        let chain = x509::certificates_of(chain_pem)
            .map_err(|error| PeerError::Malformed(error.to_string()))?;
        Judgement::of(&chain, &self.trust().bundle(), self.shared.clock.now())
    }

    /// Marked as changed whenever a certificate is issued or fails to be, and when an identity
    /// comes or goes: for readiness, and for pools that replace connections of old certificates.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    pub(super) fn request_metrics(&self) -> &RequestMetrics {
        &self.shared.metrics
    }

    pub(super) fn phases(&self) -> Vec<Phase> {
        let now = self.shared.clock.now();
        let kept = self.kept();
        kept.values()
            .map(|kept| kept.state.borrow().phase_at(now))
            .collect()
    }

    /// Negative once a certificate has expired; `None` while there is none.
    pub(super) fn soonest_expiry(&self) -> Option<time::Duration> {
        let kept = self.kept();
        let expiries = kept.values().filter_map(|kept| {
            let state = kept.state.borrow();
            state.certificate.as_ref().map(|it| it.not_after)
        });
        expiries
            .min()
            .map(|soonest| soonest - self.shared.clock.now())
    }

    fn keep(&self, identity: &Identity) -> Kept {
        let (sender, state) = watch::channel(State::default());
        let waiting = Arc::new(Waiting::new(0));
        let keeper = Keeper {
            identity: identity.clone(),
            shared: Arc::clone(&self.shared),
            state: sender,
            waiting: Arc::clone(&waiting),
            log_limit: RateLimit::default(),
        };
        Kept {
            holders: 1,
            state,
            waiting,
            keeper: self.runtime.spawn(keeper.run()).abort_handle(),
        }
    }

    fn valid(&self, state: &State) -> Option<Arc<WorkloadCertificate>> {
        state.valid_at(self.shared.clock.now()).cloned()
    }

    fn too_late(&self, identity: &Identity, state: &State) -> CertificateError {
        let identity = identity.clone();
        let waited = self.shared.settings.wait;
        let cause = match &state.failures {
            Some(failures) => format!("{}: {failures}", self.shared.ca),
            None => format!("{}, which has not answered yet", self.shared.ca),
        };
        match &state.certificate {
            Some(certificate) => CertificateError::Expired {
                identity,
                at: certificate.not_after,
                waited,
                cause,
            },
            None => CertificateError::NotReady {
                identity,
                waited,
                cause,
            },
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Identity, Kept>> {
        // No code that can panic leaves the map half-changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn status(identity: &Identity, state: &State) -> CertificateStatus {
    let certificate = state.certificate.as_deref();
    CertificateStatus {
        identity: identity.clone(),
        serial: certificate.map(|c| c.serial.clone()),
        issuer: certificate.map(|c| c.issuer.clone()),
        not_before: certificate.map(|c| c.not_before),
        not_after: certificate.map(|c| c.not_after),
        rotates_at: state.rotates_at,
        error: state.failures.as_ref().map(|it| it.last.to_string()),
    }
}
