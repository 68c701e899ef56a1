//! Service-account tokens, judged by the API server (`authentication.k8s.io/v1`, `TokenReview`).

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{Authenticator, CallerNode, TokenHash, cache::Cache, http::ApiServer};
use crate::{ca::refusal::Refusal, config::TokenReviewSettings, mesh::PodName};

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// At a time: bad tokens are not kept, and must not become a load for the API server.
const REVIEWS: usize = 16;

const ACCOUNT: &str = "system:serviceaccount:";
/// Since Kubernetes 1.30 (`ServiceAccountTokenPodNodeInfo`).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

#[derive(Debug)]
pub struct TokenReview {
    api_server: ApiServer,
    audience: Arc<str>,
    node_accounts: Vec<Arc<str>>,
    reviews: Semaphore,
    cache: Cache,
}

#[derive(Debug, Deserialize)]
struct Review {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Debug, Default, Deserialize)]
struct ReviewStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

impl TokenReview {
    pub fn new(settings: &TokenReviewSettings) -> Self {
        Self {
            api_server: ApiServer::new(settings),
            audience: Arc::clone(&settings.audience),
            node_accounts: settings.node_accounts.clone(),
            reviews: Semaphore::new(REVIEWS),
            cache: Cache::default(),
        }
    }

    async fn review(&self, token: &str) -> Result<CallerNode, Refusal> {
        let hash = TokenHash::of(token);
        if let Some(caller) = self.cache.get(hash, Instant::now()) {
            return Ok(caller);
        }
        let unavailable =
            |error: &dyn std::fmt::Display| Refusal::AuthenticationUnavailable(error.to_string());
        let _turn = self.reviews.acquire().await.map_err(|e| unavailable(&e))?;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let answer = self.api_server.post(PATH, body.to_string().into_bytes());
        let answer = answer.await.map_err(|error| unavailable(&error))?;
        let review: Review = serde_json::from_slice(&answer).map_err(|error| {
            unavailable(&format_args!(
                "the API server's answer is no review: {error}"
            ))
        })?;
        let caller = self.caller(review.status)?;
        self.cache.put(hash, caller.clone(), Instant::now());
        Ok(caller)
    }

    fn caller(&self, status: ReviewStatus) -> Result<CallerNode, Refusal> {
        let refused = |reason: String| Err(Refusal::Unauthenticated(reason));
        if !status.authenticated {
            let reason = status.error;
            return refused(format!(
                "the API server does not accept its token: {reason}"
            ));
        }
        // An API server that knows no audiences answers none, and has not looked.
        if !status
            .audiences
            .iter()
            .any(|meant| **meant == *self.audience)
        {
            let (audience, meant) = (&self.audience, status.audiences.join(", "));
            return refused(format!(
                "its token is not meant for {audience}, but for [{meant}]"
            ));
        }
        let user = status.user;
        let account = user.username.strip_prefix(ACCOUNT);
        let account = account.map(|account| account.replacen(':', "/", 1));
        let Some(account) = account.filter(|own| self.node_accounts.iter().any(|a| **a == **own))
        else {
            return refused(format!(
                "{} is not a node's account (tokenReview.nodeAccounts)",
                user.username
            ));
        };
        let extra = |key| match user.extra.get(key).map(Vec::as_slice) {
            Some([only]) if !only.is_empty() => Some(only.as_str()),
            _ => None,
        };
        if let Some(node) = extra(NODE_NAME) {
            return Ok(CallerNode::Named(node.into()));
        }
        let namespace = account.split_once('/').map(|(namespace, _)| namespace);
        match (namespace, extra(POD_NAME), extra(POD_UID)) {
            (Some(namespace), Some(pod), Some(uid)) => Ok(CallerNode::OfPod {
                pod: PodName::new(namespace, pod),
                uid: uid.into(),
            }),
            _ => refused("its token is bound to no pod: use a projected one".into()),
        }
    }
}

impl Authenticator for TokenReview {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<CallerNode, Refusal>> {
        self.review(token).boxed()
    }
}
