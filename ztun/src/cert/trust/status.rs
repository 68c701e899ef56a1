//! What `ztun status` shows of trust.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Trust, files::TrustProblem, root::Origin};
use crate::mesh::TrustDomain;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustStatus {
    /// Of the bundle in force: each change adds one.
    pub version: u64,
    pub domains: Vec<DomainStatus>,
    #[serde(default)]
    pub crls: Vec<CrlStatus>,
    /// Files that could not be taken as they are.
    #[serde(default)]
    pub problems: Vec<TrustProblem>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    pub trust_domain: TrustDomain,
    pub relation: Relation,
    /// Other names of the same domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<TrustDomain>,
    pub roots: Vec<RootStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Relation {
    Own,
    Federated,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootStatus {
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    pub subject: String,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    pub sources: Vec<Origin>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CrlStatus {
    pub issuer: String,
    /// Of the root that signed it; without, it is of an intermediate or of nobody known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub this_update: OffsetDateTime,
    /// It stays in force afterwards.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_update: Option<OffsetDateTime>,
    pub revoked: usize,
}

impl Trust {
    /// How many files can't be taken as they are.
    pub fn problems(&self) -> usize {
        self.problems.load().len()
    }

    /// When the oldest revocation list in force was made.
    pub fn oldest_crl(&self) -> Option<OffsetDateTime> {
        let bundle = self.bundle();
        bundle
            .contents()
            .crls
            .iter()
            .map(|crl| crl.this_update)
            .min()
    }

    pub fn status(&self) -> TrustStatus {
        let bundle = self.bundle();
        let contents = bundle.contents();
        let own = self.domains.own();
        // The own one is told even if it has no root yet.
        let federated = contents.roots.keys().filter(|domain| *domain != own);
        let domains = [own].into_iter().chain(federated).map(|domain| {
            let roots = contents.roots.get(domain).into_iter().flatten();
            let is_own = domain == own;
            DomainStatus {
                trust_domain: domain.clone(),
                relation: if is_own {
                    Relation::Own
                } else {
                    Relation::Federated
                },
                aliases: if is_own {
                    self.domains.aliases().to_vec()
                } else {
                    Vec::new()
                },
                roots: roots
                    .map(|(fingerprint, (root, origins))| RootStatus {
                        fingerprint: fingerprint.to_string(),
                        subject: root.subject.clone(),
                        not_after: root.not_after,
                        sources: origins.clone(),
                    })
                    .collect(),
            }
        });
        let all_roots = || contents.roots.values().flat_map(|roots| roots.values());
        let crls = contents.crls.iter().map(|crl| CrlStatus {
            issuer: crl.issuer.clone(),
            signed_by: all_roots()
                .find(|(root, _)| crl.is_signed_by(&root.certificate))
                .map(|(root, _)| root.fingerprint.to_string()),
            this_update: crl.this_update,
            next_update: crl.next_update,
            revoked: crl.revoked,
        });
        TrustStatus {
            version: bundle.version(),
            domains: domains.collect(),
            crls: crls.collect(),
            problems: self.problems.load().to_vec(),
        }
    }
}
