//! Whom this node believes: the roots of each trust domain, and what has been revoked.
//!
//! One handle for the whole node. Verifiers read the bundle of the moment at each handshake, and
//! what is open already is judged again when it changes.

mod bundle;
mod crl;
mod files;
mod follow;
mod jwks;
mod peer;
mod root;
mod status;
mod verdicts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use self::{
    bundle::Contents,
    files::FromFiles,
    root::{Root, RootSet},
};
pub use self::{
    bundle::{Purpose, TrustBundle, Verified},
    files::{TrustFileError, TrustProblem, TrustSettings},
    follow::TrustFollower,
    peer::{Distrusted, Peer},
    root::{Fingerprint, Origin, RootError},
    status::{CrlStatus, DomainStatus, Relation, RootStatus, TrustStatus},
};
use crate::mesh::{Identity, TrustDomain};

/// What this node trusts now. Readers never wait.
#[derive(Debug)]
pub struct Trust {
    domains: OwnDomains,
    parts: Mutex<Parts>,
    bundle: ArcSwap<TrustBundle>,
    problems: ArcSwap<Vec<TrustProblem>>,
    changes: watch::Sender<u64>,
}

/// The mesh's trust domain and its other names, which its own roots prove as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnDomains {
    /// The first is the one that this node's identities have.
    all: Arc<[TrustDomain]>,
}

/// What bundles are put together from.
#[derive(Debug, Default)]
struct Parts {
    /// Stays when its identity goes: a node that hosts nothing for a moment trusts what it trusted.
    newest_answer: RootSet,
    /// The CA's latest answer for each identity. All count: while a root is exchanged, two
    /// replicas of a CA may answer differently.
    answers: BTreeMap<Identity, RootSet>,
    files: FromFiles,
}

impl OwnDomains {
    pub fn new(own: TrustDomain, aliases: &[TrustDomain]) -> Self {
        let mut all = vec![own];
        for alias in aliases {
            if !all.contains(alias) {
                all.push(alias.clone());
            }
        }
        Self { all: all.into() }
    }

    pub fn own(&self) -> &TrustDomain {
        &self.all[0]
    }

    pub fn aliases(&self) -> &[TrustDomain] {
        &self.all[1..]
    }

    pub fn contains(&self, domain: &TrustDomain) -> bool {
        self.all.contains(domain)
    }

    /// Whether both name the same workload's identity, if perhaps by different names of the mesh.
    pub fn same(&self, one: &Identity, other: &Identity) -> bool {
        let same_domain = || {
            one.trust_domain() == other.trust_domain()
                || (self.contains(one.trust_domain()) && self.contains(other.trust_domain()))
        };
        one.service_account() == other.service_account()
            && one.namespace() == other.namespace()
            && same_domain()
    }
}

impl Trust {
    /// Without roots yet: they come with the CA's answers, and from files (see [`Self::follow`]).
    pub fn new(domains: OwnDomains) -> Arc<Self> {
        let bundle = TrustBundle::new(0, domains.clone(), Contents::default());
        Arc::new(Self {
            domains,
            parts: Mutex::default(),
            bundle: ArcSwap::from_pointee(bundle),
            problems: ArcSwap::default(),
            changes: watch::Sender::new(0),
        })
    }

    pub fn domains(&self) -> &OwnDomains {
        &self.domains
    }

    /// What is trusted at this moment.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.load_full()
    }

    /// The bundle's version, marked as changed with each new one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The roots of the CA's latest answer for `identity`, in place of those of the one before.
    pub fn answered(
        &self,
        identity: &Identity,
        roots: &[CertificateDer<'static>],
    ) -> Result<(), RootError> {
        let roots = roots.iter().map(|root| Root::read(root).map(Arc::new));
        let roots: RootSet = roots.collect::<Result<_, _>>()?;
        let mut parts = self.parts();
        parts.newest_answer = Arc::clone(&roots);
        parts.answers.insert(identity.clone(), roots);
        self.publish(&parts);
        Ok(())
    }

    /// No certificate is kept for `identity` any more.
    pub fn forget(&self, identity: &Identity) {
        let mut parts = self.parts();
        parts.answers.remove(identity);
        self.publish(&parts);
    }

    fn set_files(&self, files: FromFiles, problems: Vec<TrustProblem>) {
        self.problems.store(Arc::new(problems));
        let mut parts = self.parts();
        parts.files = files;
        self.publish(&parts);
    }

    /// Puts a new bundle in force, unless it would be the same: what was verified stays so.
    fn publish(&self, parts: &Parts) {
        let contents = self.contents(parts);
        let current = self.bundle.load();
        if *current.contents() == contents {
            return;
        }
        let version = current.version() + 1;
        tracing::info!(version, %contents, "trust changed");
        self.bundle.store(Arc::new(TrustBundle::new(
            version,
            self.domains.clone(),
            contents,
        )));
        self.changes.send_replace(version);
    }

    fn contents(&self, parts: &Parts) -> Contents {
        let mut contents = Contents {
            crls: Arc::clone(&parts.files.crls),
            ..Contents::default()
        };
        let own = self.domains.own();
        if !parts.files.authoritative {
            let answers = parts.answers.values().chain([&parts.newest_answer]);
            for root in answers.flat_map(|roots| roots.iter()) {
                contents.add(own, root, Origin::Ca);
            }
        }
        for (path, roots) in &parts.files.own {
            for root in &**roots {
                contents.add(own, root, Origin::File(path.clone()));
            }
        }
        for (domain, (path, roots)) in &parts.files.federated {
            for root in &**roots {
                contents.add(domain, root, Origin::File(path.clone()));
            }
        }
        contents
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // No code that can panic leaves the parts half-changed.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
