//! Trust from files: roots, other domains' bundles, revocation lists. What can't be read keeps its
//! last good version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer,
    pem::{Error as PemError, PemObject},
};
use serde::{Deserialize, Serialize};

use super::{
    OwnDomains,
    crl::Crl,
    jwks,
    root::{Root, RootSet},
};
use crate::{mesh::TrustDomain, source::file};

/// Where this node reads whom to trust, beside its CA's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrustSettings {
    /// The file in which the CA itself publishes its roots: then its answers' are not needed.
    #[serde(skip)]
    pub ca_roots: Option<PathBuf>,
    /// Further roots of the own trust domain, PEM.
    #[serde(rename = "rootsFile")]
    pub roots: Option<PathBuf>,
    /// One file for each federated trust domain: `DOMAIN.pem` with roots, or `DOMAIN.json` with a
    /// SPIFFE bundle.
    #[serde(rename = "bundleDirectory")]
    pub bundles: Option<PathBuf>,
    /// Revocation lists, PEM.
    #[serde(rename = "crlFile")]
    pub crls: Option<PathBuf>,
}

/// What files have to say.
#[derive(Debug, Default)]
pub(super) struct FromFiles {
    /// Whether `own` has all that the CA says.
    pub(super) authoritative: bool,
    pub(super) own: Vec<(PathBuf, RootSet)>,
    pub(super) federated: BTreeMap<TrustDomain, (PathBuf, RootSet)>,
    pub(super) crls: Arc<[Arc<Crl>]>,
}

/// A file that could not be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrustProblem {
    pub file: PathBuf,
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    #[error("{setting}: {file}: {reason}; correct the file, or take the setting away")]
    Unusable {
        setting: &'static str,
        file: PathBuf,
        reason: String,
    },
    #[error("{setting}: watching {directory}: {source}: is fs.inotify.max_user_watches used up?")]
    Watch {
        setting: &'static str,
        directory: PathBuf,
        source: notify::Error,
    },
}

/// The files as they were last read.
#[derive(Debug)]
pub(super) struct TrustFiles {
    pub(super) settings: TrustSettings,
    domains: OwnDomains,
    ca_roots: Loaded<[Arc<Root>]>,
    roots: Loaded<[Arc<Root>]>,
    bundles: BTreeMap<PathBuf, Loaded<[Arc<Root>]>>,
    bundles_problem: Option<TrustProblem>,
    crls: Loaded<[Arc<Crl>]>,
}

/// One file's last good version, and what is wrong with the newest.
#[derive(Debug)]
struct Loaded<T: ?Sized> {
    /// Read last, good or bad; `None` if it couldn't be read at all.
    text: Option<String>,
    good: Option<Arc<T>>,
    wrong: Option<String>,
}

impl TrustFiles {
    pub(super) fn new(settings: TrustSettings, domains: OwnDomains) -> Self {
        Self {
            settings,
            domains,
            ca_roots: Loaded::default(),
            roots: Loaded::default(),
            bundles: BTreeMap::new(),
            bundles_problem: None,
            crls: Loaded::default(),
        }
    }

    /// Reads all of them, for what has changed.
    pub(super) fn read(&mut self) {
        if let Some(path) = &self.settings.ca_roots {
            self.ca_roots.read(path, pem_roots);
        }
        if let Some(path) = &self.settings.roots {
            self.roots.read(path, pem_roots);
        }
        if let Some(path) = &self.settings.crls {
            self.crls.read(path, pem_crls);
        }
        if let Some(directory) = self.settings.bundles.clone() {
            self.read_bundles(&directory);
        }
    }

    /// What must be there at the start, when no earlier version can stay in force. Without its
    /// revocation list a node would let in what is revoked; other files that are bad let in less.
    pub(super) fn require(&self) -> Result<(), TrustFileError> {
        let settings = &self.settings;
        let singles = [
            ("caDirectory", &settings.ca_roots, &self.ca_roots.wrong),
            ("trust.rootsFile", &settings.roots, &self.roots.wrong),
            ("trust.crlFile", &settings.crls, &self.crls.wrong),
        ];
        for (setting, path, wrong) in singles {
            if let (Some(path), Some(reason)) = (path, wrong) {
                return Err(TrustFileError::Unusable {
                    setting,
                    file: path.clone(),
                    reason: reason.clone(),
                });
            }
        }
        match &self.bundles_problem {
            Some(problem) => Err(TrustFileError::Unusable {
                setting: "trust.bundleDirectory",
                file: problem.file.clone(),
                reason: problem.message.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn contents(&self) -> FromFiles {
        let settings = &self.settings;
        let own = [
            (&settings.ca_roots, &self.ca_roots.good),
            (&settings.roots, &self.roots.good),
        ];
        let own = own
            .into_iter()
            .filter_map(|(path, good)| Some((path.clone()?, good.clone()?)));
        let federated = self.bundles.iter().filter_map(|(path, bundle)| {
            let domain = domain_of(path)?.parse().ok()?;
            Some((domain, (path.clone(), bundle.good.clone()?)))
        });
        FromFiles {
            authoritative: settings.ca_roots.is_some(),
            own: own.collect(),
            federated: federated.collect(),
            crls: self.crls.good.clone().unwrap_or_default(),
        }
    }

    pub(super) fn problems(&self) -> Vec<TrustProblem> {
        let settings = &self.settings;
        let singles = [
            (&settings.ca_roots, self.ca_roots.problem()),
            (&settings.roots, self.roots.problem()),
            (&settings.crls, self.crls.problem()),
        ];
        let singles = singles.into_iter().filter_map(|(path, message)| {
            Some(TrustProblem {
                file: path.clone()?,
                message: message?,
            })
        });
        let bundles = self.bundles.iter().filter_map(|(path, bundle)| {
            Some(TrustProblem {
                file: path.clone(),
                message: bundle.problem()?,
            })
        });
        singles
            .chain(bundles)
            .chain(self.bundles_problem.clone())
            .collect()
    }

    fn read_bundles(&mut self, directory: &Path) {
        let files = match bundle_files(directory) {
            Ok(files) => files,
            Err(error) => {
                self.bundles_problem = Some(TrustProblem {
                    file: directory.to_owned(),
                    message: format!("can't be read: {error}"),
                });
                return;
            }
        };
        self.bundles_problem = None;
        // Who takes a bundle away ends the federation.
        self.bundles.retain(|path, _| files.contains(path));
        let mut seen = BTreeSet::new();
        for path in files {
            let bundle = self.bundles.entry(path.clone()).or_default();
            let domain = domain_of(&path).unwrap_or_default();
            if let Err(wrong) = is_federated(domain, &self.domains, &mut seen) {
                *bundle = Loaded::refused(wrong);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                bundle.read(&path, |text| read_roots(&jwks::roots(text)?));
            } else {
                bundle.read(&path, pem_roots);
            }
        }
    }
}

impl<T: ?Sized> Loaded<T> {
    fn read(&mut self, path: &Path, parse: impl Fn(&str) -> Result<Arc<T>, String>) {
        let text = match file::text(path) {
            Ok(text) => text,
            Err(error) => {
                self.text = None;
                self.wrong = Some(format!("can't be read: {error}"));
                return;
            }
        };
        if self.text.as_deref() == Some(&text) {
            return;
        }
        match parse(&text) {
            Ok(good) => {
                self.good = Some(good);
                self.wrong = None;
            }
            Err(wrong) => self.wrong = Some(wrong),
        }
        self.text = Some(text);
    }

    fn refused(wrong: String) -> Self {
        Self {
            wrong: Some(wrong),
            ..Self::default()
        }
    }

    fn problem(&self) -> Option<String> {
        let outcome = match self.good {
            Some(_) => "its last good version stays in force",
            None => "nothing of it is in force",
        };
        Some(format!("{}: {outcome}", self.wrong.as_ref()?))
    }
}

impl<T: ?Sized> Default for Loaded<T> {
    fn default() -> Self {
        Self {
            text: None,
            good: None,
            wrong: None,
        }
    }
}

impl fmt::Display for TrustProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// In order. Hidden names are left out: a mounted `ConfigMap` has its files twice.
fn bundle_files(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_bundle = path
            .extension()
            .is_some_and(|it| it == "pem" || it == "json");
        let is_hidden = domain_of(&path).is_none_or(|name| name.starts_with('.'));
        if is_bundle && !is_hidden && path.is_file() {
            files.insert(path);
        }
    }
    Ok(files)
}

fn domain_of(path: &Path) -> Option<&str> {
    path.file_stem()?.to_str()
}

/// A domain that may have a bundle, and has no other.
fn is_federated(
    name: &str,
    own: &OwnDomains,
    seen: &mut BTreeSet<TrustDomain>,
) -> Result<(), String> {
    let domain: TrustDomain = name
        .parse()
        .map_err(|_| format!("`{name}` is not a trust domain, which its name must begin with"))?;
    if own.contains(&domain) {
        return Err(format!(
            "{domain} is this mesh's own trust domain, whose roots come from its CA and trust.rootsFile"
        ));
    }
    if !seen.insert(domain) {
        return Err(format!(
            "{name} has another bundle beside this one: keep one"
        ));
    }
    Ok(())
}

fn pem_roots(text: &str) -> Result<RootSet, String> {
    let roots = certificates(text)?;
    if roots.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    read_roots(&roots)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<_, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    read.map_err(|error: PemError| format!("not PEM: {error}"))
}

fn read_roots(roots: &[CertificateDer<'static>]) -> Result<RootSet, String> {
    let numbered = (1..).zip(roots);
    let read = numbered.map(|(number, root)| {
        let root = Root::read(root).map_err(|error| format!("certificate {number}: {error}"));
        root.map(Arc::new)
    });
    read.collect()
}

/// A file without any is a mistake: an empty list is a list, too.
fn pem_crls(text: &str) -> Result<Arc<[Arc<Crl>]>, String> {
    let lists: Result<Vec<_>, PemError> =
        CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect();
    let lists = lists.map_err(|error| format!("not PEM: {error}"))?;
    if lists.is_empty() {
        return Err("it holds no revocation list in PEM (`-----BEGIN X509 CRL-----`)".to_owned());
    }
    let numbered = (1..).zip(lists);
    let read = numbered.map(|(number, list)| {
        let list = Crl::read(list).map_err(|error| format!("revocation list {number}: {error}"));
        list.map(Arc::new)
    });
    read.collect()
}
