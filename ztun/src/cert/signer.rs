//! The key that signs, read again when its files change.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use super::{
    EmbeddedCaError,
    embedded::{ROOT_CERTIFICATE, ROOT_KEY},
    given::SignerFiles,
    root::Root,
    stamp::Stamp,
};
use crate::{config::SignerSource, mesh::TrustDomain};

#[derive(Debug)]
pub struct Signer {
    files: SignerFiles,
    trust_domain: TrustDomain,
    current: ArcSwap<Root>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamps: Vec<Option<Stamp>>,
    problem: Option<String>,
}

impl Signer {
    pub fn open(source: &SignerSource, trust_domain: TrustDomain) -> Result<Self, EmbeddedCaError> {
        let (files, root) = match source {
            SignerSource::Files(files) => (files.clone(), Root::of_files(files, &trust_domain)?),
            SignerSource::Directory { ca_directory } => {
                // From now on they are there: one that goes is missed, and not made anew.
                let files = SignerFiles {
                    key: ca_directory.join(ROOT_KEY),
                    chain: None,
                    roots: ca_directory.join(ROOT_CERTIFICATE),
                };
                let root = Root::of_directory(ca_directory, trust_domain.clone())?;
                (files, root)
            }
        };
        let stamps = stamps(&files);
        Ok(Self {
            files,
            trust_domain,
            current: ArcSwap::from_pointee(root),
            state: Mutex::new(State {
                stamps,
                problem: None,
            }),
        })
    }

    pub fn current(&self) -> Arc<Root> {
        self.current.load_full()
    }

    /// Reads the files if they have changed; whether another signer is in force now.
    pub fn refresh(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps == state.stamps {
            return false;
        }
        match Root::of_files(&self.files, &self.trust_domain) {
            Ok(root) => {
                tracing::info!(key = %self.files.key.display(), "signing key and roots read again");
                self.current.store(Arc::new(root));
                *state = State {
                    stamps,
                    problem: None,
                };
                true
            }
            Err(error) => {
                // Looked at again: files of one change may come one by one.
                let problem = error.to_string();
                if state.problem.as_ref() != Some(&problem) {
                    tracing::error!(%error, "changed files of the signer can't be used: the last good ones stay in force");
                }
                state.problem = Some(problem);
                false
            }
        }
    }

    pub fn problem(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.problem.clone()
    }
}

fn stamps(files: &SignerFiles) -> Vec<Option<Stamp>> {
    let paths: [Option<&PathBuf>; 3] = [Some(&files.key), files.chain.as_ref(), Some(&files.roots)];
    paths
        .into_iter()
        .flatten()
        .map(|path| Stamp::of(path))
        .collect()
}
