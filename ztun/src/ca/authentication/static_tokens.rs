//! Tokens from a file: `NODE TOKEN` or `NODE sha256:HASH`, one a line.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use futures_util::future::{self, BoxFuture, FutureExt as _};

use super::{Authenticator, CallerNode, TokenHash};
use crate::{
    ca::refusal::Refusal,
    cert::{
        private_file::{self, PrivateFileError},
        stamp::Stamp,
    },
};

/// As long as a token of 128 random bits in hexadecimal.
const SHORTEST: usize = 32;
const HASHED: &str = "sha256:";

#[derive(Debug)]
pub struct StaticTokens {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    #[error(
        "{0} does not exist; write a line `NODE TOKEN` for each node, or name another tokenFile"
    )]
    Missing(PathBuf),
    // Never with the line itself, which may be a token.
    #[error("{path}:{line}: {reason}")]
    Line {
        path: PathBuf,
        line: usize,
        reason: &'static str,
    },
    #[error("{0} has no token in it; write a line `NODE TOKEN` for each node")]
    Empty(PathBuf),
}

#[derive(Debug)]
struct State {
    tokens: Vec<(TokenHash, Arc<str>)>,
    stamp: Option<Stamp>,
    problem: Option<String>,
}

impl StaticTokens {
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        let stamp = Stamp::of(path);
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                tokens: read(path)?,
                stamp,
                problem: None,
            }),
        })
    }

    fn node_of(&self, token: &str) -> Option<Arc<str>> {
        let presented = TokenHash::of(token);
        let state = self.current();
        let mut node = None;
        // All are compared, whichever is the one: how long it takes tells nothing.
        for (known, named) in &state.tokens {
            if verify_slices_are_equal(&known.0, &presented.0).is_ok() {
                node = Some(named);
            }
        }
        node.cloned()
    }

    /// The tokens of the file as it is now, or as it was when it was last good.
    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != state.stamp {
            state.stamp = stamp;
            match read(&self.path) {
                Ok(tokens) => {
                    tracing::info!(path = %self.path.display(), tokens = tokens.len(), "token file read");
                    (state.tokens, state.problem) = (tokens, None);
                }
                Err(error) => {
                    tracing::error!(%error, "token file can't be used: its last good version stays in force");
                    state.problem = Some(error.to_string());
                }
            }
        }
        state
    }
}

impl Authenticator for StaticTokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<CallerNode, Refusal>> {
        let node = self.node_of(token).map(CallerNode::Named).ok_or_else(|| {
            Refusal::Unauthenticated("its token is not one of the CA's token file".into())
        });
        future::ready(node).boxed()
    }

    fn problem(&self) -> Option<String> {
        self.current().problem.clone()
    }
}

fn read(path: &Path) -> Result<Vec<(TokenHash, Arc<str>)>, TokenFileError> {
    let text = private_file::read(path)?.ok_or_else(|| TokenFileError::Missing(path.to_owned()))?;
    let mut tokens: Vec<(TokenHash, Arc<str>)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason| TokenFileError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason,
        };
        let (token, node) = entry(line).map_err(wrong)?;
        if tokens.iter().any(|(other, _)| *other == token) {
            return Err(wrong("this token is in the file already"));
        }
        tokens.push((token, node));
    }
    if tokens.is_empty() {
        return Err(TokenFileError::Empty(path.to_owned()));
    }
    Ok(tokens)
}

fn entry(line: &str) -> Result<(TokenHash, Arc<str>), &'static str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [node, token] = fields[..] else {
        return Err("expected `NODE TOKEN`");
    };
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if !node.bytes().all(named) {
        return Err("expected the node's name first: lower-case letters, digits, `-` and `.`");
    }
    let hash = match token.strip_prefix(HASHED) {
        Some(hexadecimal) => hash(hexadecimal).ok_or("expected 64 hexadecimal digits")?,
        None if token.len() < SHORTEST => {
            return Err(
                "the token is shorter than 32 characters: make one with `openssl rand -hex 32`",
            );
        }
        None => TokenHash::of(token),
    };
    Ok((hash, node.into()))
}

fn hash(hexadecimal: &str) -> Option<TokenHash> {
    if hexadecimal.len() != 64 || !hexadecimal.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hexadecimal[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(TokenHash(hash))
}
