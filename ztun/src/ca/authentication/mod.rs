//! Who calls: by a token, from which its node follows.

mod cache;
mod http;
mod static_tokens;
mod token_review;

use std::{fmt, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::BoxFuture;

pub use self::{
    static_tokens::{StaticTokens, TokenFileError},
    token_review::TokenReview,
};
use super::refusal::Refusal;
use crate::mesh::PodName;

/// Tells callers' nodes from their tokens.
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<CallerNode, Refusal>>;

    /// What is wrong with it now, for readiness and metrics.
    fn problem(&self) -> Option<String> {
        None
    }
}

/// Where a caller runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerNode {
    Named(Arc<str>),
    /// Where the mesh state has the caller's own pod.
    OfPod {
        pod: PodName,
        uid: Arc<str>,
    },
}

/// What is kept of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TokenHash([u8; 32]);

impl TokenHash {
    fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// The token of an `authorization` header.
pub fn bearer(header: Option<&str>) -> Result<&str, Refusal> {
    header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .map(|(_, token)| token)
        .ok_or_else(|| {
            let expected = "the request has no header `authorization: Bearer <token>`";
            Refusal::Unauthenticated(expected.into())
        })
}

#[cfg(test)]
mod tests;
