//! Certificate revocation lists (RFC 5280, section 5).

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

use super::root::Fingerprint;

#[derive(Debug)]
pub(super) struct Crl {
    der: CertificateRevocationListDer<'static>,
    list: CertRevocationList<'static>,
    pub(super) fingerprint: Fingerprint,
    pub(super) issuer: String,
    pub(super) this_update: OffsetDateTime,
    pub(super) next_update: Option<OffsetDateTime>,
    pub(super) revoked: usize,
}

impl Crl {
    /// Strictly: deltas, indirect lists and critical extensions that aren't known are refused,
    /// because what they leave out would count as not revoked.
    pub(super) fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let list = OwnedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let (_, parsed) =
            CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let (issuer, this_update, next_update) = (
            parsed.issuer().to_string(),
            parsed.last_update().to_datetime(),
            parsed.next_update().map(|at| at.to_datetime()),
        );
        let revoked = parsed.iter_revoked_certificates().count();
        Ok(Self {
            fingerprint: Fingerprint::of(&der),
            list: list.into(),
            issuer,
            this_update,
            next_update,
            revoked,
            der,
        })
    }

    /// Whether the CA that has the certificate `issuer` revoked `certificate` by this list.
    ///
    /// The name alone doesn't tell whose list it is: the roots of several meshes, and those before
    /// and after an exchange, mostly have the same. What another of that name signed says nothing.
    pub(super) fn revokes(
        &self,
        certificate: &webpki::Cert<'_>,
        issuer: &CertificateDer<'_>,
    ) -> bool {
        let listed = || !matches!(self.list.find_serial(certificate.serial()), Ok(None));
        self.list.issuer() == certificate.issuer() && listed() && self.is_signed_by(issuer)
    }

    pub(super) fn is_signed_by(&self, issuer: &CertificateDer<'_>) -> bool {
        let list = CertificateRevocationList::from_der(&self.der);
        let issuer = X509Certificate::from_der(issuer);
        match (list, issuer) {
            (Ok((_, list)), Ok((_, issuer))) => list.verify_signature(issuer.public_key()).is_ok(),
            _ => false,
        }
    }
}
