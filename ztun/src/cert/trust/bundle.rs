//! What is trusted at one moment: roots by trust domain, and revocation lists.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Arc};

use rustls::{
    CertificateError, Error, ExtendedKeyPurpose,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{
    OwnDomains,
    crl::Crl,
    root::{Fingerprint, Origin, Root, RootError},
    verdicts::{ChainKey, Verdicts},
};
use crate::{
    cert::{KeyExchange, PeerError, clock, x509},
    mesh::{Identity, TrustDomain},
};

/// Never changes, but for what it remembers of chains that it has verified.
#[derive(Debug)]
pub struct TrustBundle {
    version: u64,
    domains: OwnDomains,
    contents: Contents,
    /// As webpki wants them, by domain.
    anchors: BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>,
    verdicts: Verdicts,
}

/// Of one domain, each with where it comes from.
type Roots = BTreeMap<Fingerprint, (Arc<Root>, Vec<Origin>)>;

#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) roots: BTreeMap<TrustDomain, Roots>,
    pub(super) crls: Arc<[Arc<Crl>]>,
}

/// What the peer is in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Server,
    Client,
}

/// A chain that leads to a root of its own trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub identity: Identity,
    pub root: Fingerprint,
    /// When all certificates of the chain are valid, the root's too.
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl TrustBundle {
    pub(super) fn new(version: u64, domains: OwnDomains, contents: Contents) -> Self {
        let anchors = contents.roots.iter().map(|(domain, roots)| {
            let anchors = roots.values().map(|(root, _)| root.anchor.clone());
            (domain.clone(), anchors.collect())
        });
        Self {
            version,
            domains,
            anchors: anchors.collect(),
            contents,
            verdicts: Verdicts::default(),
        }
    }

    /// Of the roots in a CA's answer alone.
    pub(in crate::cert) fn of_answer(
        domain: &TrustDomain,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, RootError> {
        let mut contents = Contents::default();
        for root in roots {
            contents.add(domain, &Arc::new(Root::read(root)?), Origin::Ca);
        }
        let domains = OwnDomains::new(domain.clone(), &[]);
        Ok(Self::new(0, domains, contents))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Whose certificate this is, if its chain leads to a root that is trusted for exactly the
    /// trust domain that it claims.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Arc<Verified>, Error> {
        let at = clock::date_time(now);
        let key = ChainKey::new(leaf, intermediates, purpose);
        if let Some(verified) = self.verdicts.get(&key, at) {
            return Ok(verified);
        }
        let verified = Arc::new(self.verify_anew(leaf, intermediates, purpose, now)?);
        self.verdicts.insert(key, Arc::clone(&verified), at);
        Ok(verified)
    }

    /// As [`Self::verify`], whatever is remembered.
    pub fn verify_anew(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Verified, Error> {
        let identity = x509::identity(leaf)?;
        let (Some(anchors), Some(roots)) = self.trusted_for(identity.trust_domain()) else {
            return Err(self.untrusted(identity).into());
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        // Of the paths to a root, the last that is refused for what webpki doesn't know of.
        let refused = RefCell::new(None);
        let accept = |path: &VerifiedPath<'_>| {
            self.judge(path, roots, now).map_err(|(error, code)| {
                *refused.borrow_mut() = Some(error);
                code
            })
        };
        let path = certificate.verify_for_usage(
            KeyExchange::default()
                .provider()
                .signature_verification_algorithms
                .all,
            anchors,
            intermediates,
            now,
            match purpose {
                Purpose::Server => KeyUsage::server_auth(),
                Purpose::Client => KeyUsage::client_auth(),
            },
            None,
            Some(&accept),
        );
        let path = path.map_err(|error| {
            let refused = refused.take();
            refused.unwrap_or_else(|| certificate_error(error))
        })?;
        let root = root_of(&path, roots).ok_or(CertificateError::UnknownIssuer)?;
        let (mut not_before, mut not_after) = (root.not_before, root.not_after);
        let intermediates = path.intermediate_certificates().map(webpki::Cert::der);
        for certificate in [leaf.clone()].into_iter().chain(intermediates) {
            let facts = x509::Facts::of(&certificate)?;
            not_before = not_before.max(facts.not_before);
            not_after = not_after.min(facts.not_after);
        }
        Ok(Verified {
            identity,
            root: root.fingerprint,
            not_before,
            not_after,
        })
    }

    /// The root that a chain led to.
    pub fn root(&self, verified: &Verified) -> Option<&CertificateDer<'static>> {
        let (_, roots) = self.trusted_for(verified.identity.trust_domain());
        let (root, _) = roots?.get(&verified.root)?;
        Some(&root.certificate)
    }

    fn trusted_for(
        &self,
        domain: &TrustDomain,
    ) -> (Option<&[TrustAnchor<'static>]>, Option<&Roots>) {
        let domain = if self.domains.contains(domain) {
            self.domains.own()
        } else {
            domain
        };
        let anchors = self.anchors.get(domain).map(Vec::as_slice);
        (anchors, self.contents.roots.get(domain))
    }

    /// What webpki doesn't ask: whether the root itself is valid, and the revocation lists.
    fn judge(
        &self,
        path: &VerifiedPath<'_>,
        roots: &Roots,
        now: UnixTime,
    ) -> Result<(), (Error, webpki::Error)> {
        let unknown = || {
            let error = CertificateError::UnknownIssuer;
            (error.into(), webpki::Error::UnknownIssuer)
        };
        let root = root_of(path, roots).ok_or_else(unknown)?;
        let at = clock::date_time(now);
        if at < root.not_before || root.not_after < at {
            let error = PeerError::RootNotValid {
                root: root.subject.clone(),
                not_before: root.not_before,
                not_after: root.not_after,
            };
            return Err((error.into(), webpki::Error::UnknownIssuer));
        }
        let revoked = || (CertificateError::Revoked.into(), webpki::Error::CertRevoked);
        let mut issuer = root.certificate.clone();
        for intermediate in path.intermediate_certificates().rev() {
            self.contents
                .revokes(intermediate, &issuer)
                .then(revoked)
                .map_or(Ok(()), Err)?;
            issuer = intermediate.der();
        }
        let leaf: &webpki::Cert<'_> = path.end_entity();
        self.contents
            .revokes(leaf, &issuer)
            .then(revoked)
            .map_or(Ok(()), Err)
    }

    fn untrusted(&self, presented: Identity) -> PeerError {
        let own = self.domains.all.iter();
        let federated = self.contents.roots.keys();
        let federated = federated.filter(|domain| !self.domains.contains(domain));
        let trusted: Vec<_> = own.chain(federated).map(TrustDomain::as_str).collect();
        PeerError::UntrustedDomain {
            presented,
            trusted: trusted.join(" or "),
        }
    }

    #[cfg(test)]
    pub(in crate::cert) fn remembered(&self) -> usize {
        self.verdicts.len()
    }
}

impl Contents {
    pub(super) fn add(&mut self, domain: &TrustDomain, root: &Arc<Root>, origin: Origin) {
        let roots = self.roots.entry(domain.clone()).or_default();
        let entry = roots.entry(root.fingerprint);
        let (_, origins) = entry.or_insert_with(|| (Arc::clone(root), Vec::new()));
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }

    fn revokes(&self, certificate: &webpki::Cert<'_>, issuer: &CertificateDer<'_>) -> bool {
        self.crls.iter().any(|crl| crl.revokes(certificate, issuer))
    }
}

/// Certificates and lists are equal when their fingerprints are.
impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        let roots = |contents: &Self| -> Vec<_> {
            let domains = contents.roots.iter();
            domains
                .flat_map(|(domain, roots)| {
                    let roots = roots.iter();
                    roots.map(|(fingerprint, (_, origins))| {
                        (domain.clone(), *fingerprint, origins.clone())
                    })
                })
                .collect()
        };
        let crls = |contents: &Self| -> Vec<_> {
            contents.crls.iter().map(|crl| crl.fingerprint).collect()
        };
        roots(self) == roots(other) && crls(self) == crls(other)
    }
}

/// For the log.
impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (domain, roots) in &self.roots {
            write!(f, "{} roots of {domain}, ", roots.len())?;
        }
        write!(f, "{} revocation lists", self.crls.len())
    }
}

impl Verified {
    pub(super) fn is_valid_at(&self, at: OffsetDateTime) -> bool {
        self.not_before <= at && at <= self.not_after
    }
}

/// Several roots may have the same name and key: one that is valid stands for all.
fn root_of<'a>(path: &VerifiedPath<'_>, roots: &'a Roots) -> Option<&'a Root> {
    let anchor = path.anchor();
    let same = |root: &&Arc<Root>| root.anchor == *anchor;
    let roots = roots.values().map(|(root, _)| root);
    roots
        .filter(same)
        .max_by_key(|root| root.not_after)
        .map(|root| &**root)
}

/// As rustls's own verifiers put it, for what it logs and which alert it sends.
fn certificate_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let error = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        // The roots of separate meshes mostly have the same name, and then webpki speaks of a bad
        // signature.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::RequiredEkuNotFoundContext(context) => CertificateError::InvalidPurposeContext {
            required: extended_key_purpose(context.required.oid_values()),
            presented: context
                .present
                .into_iter()
                .map(|usage| extended_key_purpose(usage.into_iter()))
                .collect(),
        },
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    error.into()
}

fn extended_key_purpose(arcs: impl Iterator<Item = usize>) -> ExtendedKeyPurpose {
    match &arcs.collect::<Vec<_>>()[..] {
        KeyUsage::CLIENT_AUTH_REPR => ExtendedKeyPurpose::ClientAuth,
        KeyUsage::SERVER_AUTH_REPR => ExtendedKeyPurpose::ServerAuth,
        other => ExtendedKeyPurpose::Other(other.to_vec()),
    }
}
