//! The certificates' tests, and what they share: roots, odd certificates, a CA with moods.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ca_faults;
mod connect;
mod embedded;
mod fake_ca;
mod fips;
mod grpc;
mod handshake;
mod inspect;
mod issuing;
mod key_exchange;
mod log;
mod managed;
mod manager;
mod negotiation;
mod signer_files;
mod trust;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use rcgen::{
    Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    ExtendedKeyUsagePurpose, Issuer, KeyPair, PublicKeyData, SanType,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    CaError, CertificateAuthority, CertificateRequest, IssuedChain, KeyExchange, Trust,
    WorkloadCertificate,
    clock::Clock,
    key::WorkloadKey,
    root::{self, Root},
    trust::OwnDomains,
};
use crate::mesh::{Identity, TrustDomain};

const DAY: Duration = Duration::from_hours(24);

fn identity(service_account: &str) -> Identity {
    Identity::new(trust_domain(), "default", service_account).unwrap()
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn named(service_account: &str) -> Vec<SanType> {
    vec![uri(&identity(service_account).to_string())]
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// A root whose key the tests have in hand, so that they can sign what no CA of ours would.
#[derive(Debug)]
struct TestRoot {
    key: KeyPair,
    pem: String,
}

impl TestRoot {
    fn new() -> Self {
        Self::of(&trust_domain())
    }

    /// With that organisation as its subject.
    fn of(organisation: &TrustDomain) -> Self {
        let key = KeyPair::generate().unwrap();
        let now = OffsetDateTime::now_utc();
        let pem = root::self_signed(&key, organisation, now).unwrap().pem();
        Self { key, pem }
    }

    fn root(&self) -> Root {
        Root::new(self.key_copy(), &self.pem, trust_domain()).unwrap()
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    /// Of a node whose CA this is.
    fn trust(&self) -> Arc<Trust> {
        let trust = Trust::new(OwnDomains::new(trust_domain(), &[]));
        trust.answered(&identity("this"), &[self.der()]).unwrap();
        trust
    }

    fn certificate(&self, identity: &Identity) -> WorkloadCertificate {
        self.certificate_for(identity, KeyExchange::default())
    }

    fn certificate_for(&self, identity: &Identity, by: KeyExchange) -> WorkloadCertificate {
        let key = WorkloadKey::generate(identity).unwrap();
        let csr = key.request(identity).unwrap();
        let now = OffsetDateTime::now_utc();
        let issued = self.root().sign(identity, csr.der(), DAY, now).unwrap();
        WorkloadCertificate::new(identity.clone(), &key, issued, self.trust(), by, now).unwrap()
    }

    /// A leaf in good order but for what `change` makes of it, with its key.
    fn odd(
        &self,
        names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let leaf = self.leaf(&key, names, change);
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(CertifiedKey::new(
            vec![leaf.der().clone()],
            any_ecdsa_type(&der).unwrap(),
        ))
    }

    fn leaf(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.not_before = OffsetDateTime::now_utc() - DAY;
        params.not_after = OffsetDateTime::now_utc() + DAY;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let issuer = Issuer::from_ca_cert_pem(&self.pem, self.key_copy()).unwrap();
        params.signed_by(key, &issuer).unwrap()
    }

    fn key_copy(&self) -> KeyPair {
        KeyPair::from_pem(&self.key.serialize_pem()).unwrap()
    }
}

/// Follows tokio's clock, which tests pause, plus what they set it forward.
#[derive(Debug)]
struct TestClock {
    began: (OffsetDateTime, Instant),
    jumped: Mutex<Duration>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: (OffsetDateTime::now_utc(), Instant::now()),
            jumped: Mutex::default(),
        })
    }

    fn jump(&self, by: Duration) {
        *self.jumped.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> OffsetDateTime {
        self.began.0 + self.began.1.elapsed() + *self.jumped.lock().unwrap()
    }
}

/// What [`TestCa`] does with the next requests.
#[derive(Clone, Debug)]
enum Mood {
    Signs,
    Fails,
    Refuses,
    Hangs,
    Slow(Duration),
    SaysGarbage,
    SignsWithAnotherRoot,
    SignsFor(Identity),
    SignsAnotherKey,
    SignsAsOf(OffsetDateTime),
}

#[derive(Debug)]
struct TestCa {
    root: TestRoot,
    clock: Arc<TestClock>,
    mood: Mutex<Mood>,
    requests: AtomicUsize,
}

impl TestCa {
    fn new(clock: &Arc<TestClock>, mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            root: TestRoot::new(),
            clock: Arc::clone(clock),
            mood: Mutex::new(mood),
            requests: AtomicUsize::new(0),
        })
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    async fn answer(&self, request: &CertificateRequest) -> Result<IssuedChain, CaError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mood = self.mood.lock().unwrap().clone();
        let now = self.clock.now();
        let csr = request.csr.der();
        let sign = |csr, now| {
            let root = self.root.root();
            root.sign(&request.identity, csr, request.lifetime, now)
        };
        match mood {
            Mood::Signs => sign(csr, now),
            Mood::Fails => Err(CaError::Unavailable {
                ca: self.to_string(),
                reason: "connection refused".into(),
            }),
            Mood::Refuses => Err(CaError::Refused {
                identity: request.identity.clone(),
                reason: "no such pod here".into(),
            }),
            Mood::Hangs => std::future::pending().await,
            Mood::Slow(time) => {
                tokio::time::sleep(time).await;
                sign(csr, self.clock.now())
            }
            Mood::SaysGarbage => IssuedChain::from_pem(&["garbage", "more of it"]),
            Mood::SignsWithAnotherRoot => {
                let roots = TestRoot::new()
                    .root()
                    .sign(&request.identity, csr, DAY, now)?
                    .roots;
                Ok(IssuedChain {
                    roots,
                    ..sign(csr, now)?
                })
            }
            Mood::SignsFor(other) => {
                let key = CertificateSigningRequestParams::from_der(csr).unwrap();
                let leaf = self
                    .root
                    .leaf(&key.public_key, vec![uri(&other.to_string())], |_| {});
                IssuedChain::from_pem(&[&leaf.pem(), &self.root.pem])
            }
            Mood::SignsAnotherKey => {
                let key = WorkloadKey::generate(&request.identity)?;
                sign(key.request(&request.identity)?.der(), now)
            }
            Mood::SignsAsOf(then) => sign(csr, then),
        }
    }
}

impl CertificateAuthority for TestCa {
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedChain, CaError>> {
        self.answer(request).boxed()
    }
}

impl fmt::Display for TestCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test CA")
    }
}
