//! `istio.v1.auth.IstioCertificateService`: who may have which certificate, step by step.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use prost_types::value::Kind;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use tonic::{Request, Response, Status};

use super::{
    authentication::{Authenticator, bearer},
    issue_log::{IssueLog, Record},
    metrics::CaMetrics,
    placement::Placements,
    rate_limit::NodeRates,
    refusal::Refusal,
};
use crate::{
    cert::{
        clock::Clock,
        csr::CsrError,
        root::{Issued, SigningRefusal},
        signer::Signer,
    },
    mesh::{Identity, TrustDomain},
    observe::rate_limit::RateLimit,
    proto::ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
};

const IMPERSONATED: &str = "ImpersonatedIdentity";
/// For requests that don't say (istiod's value).
const USUAL_LIFETIME: Duration = Duration::from_hours(24);

/// A connection's other end, among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

#[derive(Debug)]
pub struct CertificateService {
    pub authenticator: Arc<dyn Authenticator>,
    pub rates: NodeRates,
    pub placements: Placements,
    pub trust_domain: TrustDomain,
    pub signer: Arc<Signer>,
    pub max_lifetime: Duration,
    pub issue_log: Arc<IssueLog>,
    pub metrics: CaMetrics,
    pub clock: Arc<dyn Clock>,
    pub refusals: Refusals,
}

/// One for each rule: what many callers provoke hides nothing else.
#[derive(Debug)]
pub struct Refusals(HashMap<&'static str, RateLimit>);

/// What is known of a request as far as it was looked at.
#[derive(Debug, Default)]
struct Asked {
    node: Option<Arc<str>>,
    identity: Option<Identity>,
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let arrived = Instant::now();
        let Some(Peer(peer)) = request.extensions().get().copied() else {
            return Err(Status::internal("the connection has no peer"));
        };
        let mut asked = Asked::default();
        let outcome = self.certify(request, peer, &mut asked).await;
        self.metrics
            .answered(outcome.as_ref().map(drop), arrived.elapsed());
        match outcome {
            Ok(issued) => Ok(Response::new(IstioCertificateResponse {
                cert_chain: issued.elements,
            })),
            Err(refusal) => {
                self.refusals.log(&refusal, &asked, peer);
                Err((&refusal).into())
            }
        }
    }
}

impl CertificateService {
    async fn certify(
        &self,
        request: Request<IstioCertificateRequest>,
        peer: SocketAddr,
        asked: &mut Asked,
    ) -> Result<Issued, Refusal> {
        let (metadata, _, request) = request.into_parts();
        let header = metadata.get("authorization");
        let token = bearer(header.and_then(|value| value.to_str().ok()))?;
        let caller = self.authenticator.authenticate(token).await?;
        let node = &*asked.node.insert(self.placements.node_of(&caller)?);
        self.rates
            .admit(node, Instant::now())
            .map_err(|again| Refusal::RateLimit {
                node: Arc::clone(node),
                again,
            })?;
        let identity = &*asked.identity.insert(impersonated(&request)?);
        if *identity.trust_domain() != self.trust_domain {
            let own = self.trust_domain.clone();
            return Err(SigningRefusal::TrustDomain { own }.into());
        }
        self.placements.authorize(node, identity)?;
        let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes())
            .map_err(|error| SigningRefusal::from(CsrError::Malformed(error.to_string())))?;
        let lifetime = lifetime(request.validity_duration).min(self.max_lifetime);
        let now = self.clock.now();
        let issued = self.signer.current().issue(identity, &csr, lifetime, now)?;
        let record = Record {
            time: now,
            serial: &issued.serial,
            identity,
            node,
            not_after: issued.not_after,
            peer,
        };
        self.issue_log
            .append(&record)
            .await
            .map_err(|error| Refusal::IssueLog(error.to_string()))?;
        tracing::debug!(serial = issued.serial, %identity, %node, %peer, "certificate issued");
        Ok(issued)
    }
}

fn impersonated(request: &IstioCertificateRequest) -> Result<Identity, Refusal> {
    let value = request
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.fields.get(IMPERSONATED)?.kind.as_ref());
    match value {
        Some(Kind::StringValue(identity)) => identity
            .parse()
            .map_err(|error| Refusal::NoIdentity(format!("{error}"))),
        Some(_) => Err(Refusal::NoIdentity("it is not a string".into())),
        None => Err(Refusal::NoIdentity("it is missing".into())),
    }
}

fn lifetime(seconds: i64) -> Duration {
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => USUAL_LIFETIME,
        Ok(seconds) => Duration::from_secs(seconds),
    }
}

impl Default for Refusals {
    fn default() -> Self {
        let limit = |rule| (rule, RateLimit::default());
        Self(Refusal::RULES.into_iter().map(limit).collect())
    }
}

impl Refusals {
    fn log(&self, refusal: &Refusal, asked: &Asked, peer: SocketAddr) {
        let rule = refusal.rule();
        let limit = self.0.get(rule);
        let Some(suppressed) = limit.and_then(|limit| limit.admit(Instant::now())) else {
            return;
        };
        tracing::warn!(
            rule,
            node = asked.node.as_deref(),
            identity = asked.identity.as_ref().map(tracing::field::display),
            %peer,
            suppressed,
            reason = %refusal,
            "no certificate"
        );
    }
}
