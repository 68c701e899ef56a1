//! Token files that are wrong or change, and an API server that says yes, no and nonsense.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{cert::KeyExchange, config::TokenReviewSettings};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn token_file(text: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tokens");
    write(&path, text, 0o600);
    (directory, path)
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

async fn node_of(authenticator: &dyn Authenticator, token: &str) -> Result<CallerNode, Refusal> {
    authenticator.authenticate(token).await
}

fn named(node: &str) -> CallerNode {
    CallerNode::Named(node.into())
}

#[tokio::test]
async fn a_token_names_its_node_in_clear_or_hashed() {
    // printf %s 0123456789abcdef0123456789abcdee | sha256sum
    let hashed = "sha256:40fb5749bc150b2dd1cb35fd9e8a93eb15b3e8292baddbe3ec4742b0b79f08f4";
    let text = format!("# nodes\n\na {TOKEN}\n  b\t{hashed}  \na second-{TOKEN}\n");
    let (_directory, path) = token_file(&text);
    let tokens = StaticTokens::open(&path).unwrap();
    assert_eq!(node_of(&tokens, TOKEN).await, Ok(named("a")));
    let hashed_token = "0123456789abcdef0123456789abcdee";
    assert_eq!(node_of(&tokens, hashed_token).await, Ok(named("b")));
    let second = format!("second-{TOKEN}");
    assert_eq!(node_of(&tokens, &second).await, Ok(named("a")));
    for unknown in ["", "a", hashed, &TOKEN[1..]] {
        let refused = node_of(&tokens, unknown).await.unwrap_err();
        assert_eq!(refused.rule(), "unauthenticated", "{unknown}");
    }
}

#[test]
fn a_wrong_line_is_named_and_its_token_is_not() {
    for (line, reason) in [
        ("a", "NODE TOKEN"),
        ("a short-secret", "shorter than 32"),
        (&format!("a {TOKEN} more"), "NODE TOKEN"),
        (&format!("Node/1 {TOKEN}"), "node's name"),
        ("a sha256:abc", "64 hexadecimal"),
        (&format!("a sha256:{}", "z".repeat(64)), "64 hexadecimal"),
    ] {
        let (_directory, path) = token_file(&format!("# first\n{line}\n"));
        let error = StaticTokens::open(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{}:2: ", path.display())),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
        assert!(
            !error.contains("secret") && !error.contains(TOKEN),
            "{error}"
        );
    }
}

#[test]
fn a_token_of_two_nodes_is_an_error() {
    let (_directory, path) = token_file(&format!("a {TOKEN}\nb {TOKEN}\n"));
    let error = StaticTokens::open(&path).unwrap_err().to_string();
    assert!(
        error.contains(":2: ") && error.contains("already"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_missing_empty_or_open_to_others_is_refused() {
    let (directory, path) = token_file("# none\n");
    let error = StaticTokens::open(&path).unwrap_err().to_string();
    assert!(error.contains("no token"), "{error}");
    let error = StaticTokens::open(&directory.path().join("x")).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    write(&path, &format!("a {TOKEN}\n"), 0o644);
    let error = StaticTokens::open(&path).unwrap_err().to_string();
    let fix = format!("`chmod 600 {}`", path.display());
    assert!(error.contains(&fix), "{error}");
}

#[tokio::test]
async fn a_changed_file_counts_at_once_and_a_wrong_one_not_at_all() {
    let (_directory, path) = token_file(&format!("a {TOKEN}\n"));
    let tokens = StaticTokens::open(&path).unwrap();
    write(&path, &format!("b {TOKEN}\n"), 0o600);
    assert_eq!(node_of(&tokens, TOKEN).await, Ok(named("b")));
    write(&path, "garbage", 0o600);
    assert_eq!(node_of(&tokens, TOKEN).await, Ok(named("b")));
    assert!(tokens.problem().is_some());
    write(&path, &format!("c {TOKEN}\n"), 0o600);
    assert_eq!(node_of(&tokens, TOKEN).await, Ok(named("c")));
    assert_eq!(tokens.problem(), None);
}

type Answer = (StatusCode, String);

/// One request to the fake.
#[derive(Debug)]
struct Asked {
    header: Option<String>,
    path: String,
    body: Value,
}

/// A fake of the Kubernetes API server: it serves TLS, notes what it is asked, and answers what it is told.
struct FakeApiServer {
    directory: TempDir,
    settings: TokenReviewSettings,
    asked: Arc<Mutex<Vec<Asked>>>,
    reviews: Arc<AtomicUsize>,
    answer: Arc<Mutex<Answer>>,
}

impl FakeApiServer {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        fs::write(directory.path().join("token"), "the-cas-own\n").unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(KeyExchange::default().provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fake = Self {
            settings: TokenReviewSettings {
                api_server: format!("https://localhost:{port}").parse().unwrap(),
                token_file: directory.path().join("token"),
                root_file: directory.path().join("ca.crt"),
                audience: "istio-ca".into(),
                node_accounts: vec!["istio-system/ztun".into()],
            },
            directory,
            asked: Arc::default(),
            reviews: Arc::default(),
            answer: Arc::new(Mutex::new((StatusCode::OK, "{}".into()))),
        };
        let (asked, reviews) = (fake.asked.clone(), fake.reviews.clone());
        let answer = fake.answer.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let (asked, answer) = (asked.clone(), answer.clone());
                reviews.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request: Request<Incoming>| {
                    let (asked, answer) = (asked.clone(), answer.clone());
                    async move {
                        let header = request.headers().get("authorization").cloned();
                        let header = header.map(|value| value.to_str().unwrap().to_owned());
                        let path = format!("{} {}", request.method(), request.uri());
                        let body = request.into_body().collect().await?.to_bytes();
                        let body = serde_json::from_slice(&body).unwrap();
                        asked.lock().unwrap().push(Asked { header, path, body });
                        let (status, body) = answer.lock().unwrap().clone();
                        let mut response = Response::new(Full::new(Bytes::from(body)));
                        *response.status_mut() = status;
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        fake
    }

    fn says(&self, status: StatusCode, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    fn reviews_as(&self, status: &Value) {
        let review = json!({ "kind": "TokenReview", "status": status });
        self.says(StatusCode::CREATED, &review.to_string());
    }

    fn reviews(&self) -> usize {
        self.reviews.load(Ordering::Relaxed)
    }
}

/// A good review, as an API server since Kubernetes 1.30 has it.
fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:istio-system:ztun",
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/node-name": ["worker-1"],
                "authentication.kubernetes.io/pod-name": ["ztun-x7k2p"],
                "authentication.kubernetes.io/pod-uid": ["6f2d"],
            },
        },
    })
}

#[tokio::test]
async fn the_api_server_is_asked_for_the_audience_with_the_cas_own_token() {
    let fake = FakeApiServer::start().await;
    fake.reviews_as(&good());
    let review = TokenReview::new(&fake.settings);
    assert_eq!(node_of(&review, "jwt").await, Ok(named("worker-1")));
    let asked = fake.asked.lock().unwrap();
    let [Asked { header, path, body }] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(header.as_deref(), Some("Bearer the-cas-own"));
    assert_eq!(path, "POST /apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(
        *body,
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": "jwt", "audiences": ["istio-ca"] },
        })
    );
}

#[tokio::test]
async fn a_good_answer_is_asked_for_once_and_a_bad_one_each_time() {
    let fake = FakeApiServer::start().await;
    fake.reviews_as(&good());
    let review = TokenReview::new(&fake.settings);
    for _ in 0..3 {
        node_of(&review, "good").await.unwrap();
    }
    assert_eq!(fake.reviews(), 1);
    fake.reviews_as(&json!({ "authenticated": false }));
    for _ in 0..3 {
        node_of(&review, "bad").await.unwrap_err();
    }
    assert_eq!(fake.reviews(), 4);
    node_of(&review, "good").await.unwrap();
}

#[tokio::test]
async fn an_older_api_server_tells_the_pod_instead_of_the_node() {
    let fake = FakeApiServer::start().await;
    let mut status = good();
    let extra = status["user"]["extra"].as_object_mut().unwrap();
    extra.remove("authentication.kubernetes.io/node-name");
    fake.reviews_as(&status);
    let review = TokenReview::new(&fake.settings);
    let expected = CallerNode::OfPod {
        pod: PodName::new("istio-system", "ztun-x7k2p"),
        uid: "6f2d".into(),
    };
    assert_eq!(node_of(&review, "jwt").await, Ok(expected));
}

#[tokio::test]
async fn a_review_that_is_not_of_a_node_refuses() {
    let fake = FakeApiServer::start().await;
    let review = TokenReview::new(&fake.settings);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut status = good();
        change(&mut status);
        status
    };
    for (status, reason) in [
        (
            json!({ "authenticated": false, "error": "expired" }),
            "expired",
        ),
        (json!({}), "does not accept"),
        (changed(&|s| s["audiences"] = json!([])), "not meant for"),
        (
            changed(&|s| s["audiences"] = json!(["api"])),
            "not meant for",
        ),
        (
            changed(&|s| s["user"]["username"] = json!("system:serviceaccount:shop:ztun")),
            "shop:ztun is not a node's",
        ),
        (
            changed(&|s| s["user"]["username"] = json!("istio-system/ztun")),
            "not a node's",
        ),
        (
            changed(&|s| {
                s["user"]["username"] = json!("system:serviceaccount:istio-system:ztun:x");
            }),
            "not a node's",
        ),
        (
            changed(&|s| s["user"]["extra"] = json!({})),
            "bound to no pod",
        ),
    ] {
        fake.reviews_as(&status);
        let refused = node_of(&review, "jwt").await.unwrap_err();
        assert_eq!(refused.rule(), "unauthenticated", "{status}");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

#[tokio::test]
async fn an_api_server_that_can_not_say_refuses_for_now() {
    let fake = FakeApiServer::start().await;
    let review = TokenReview::new(&fake.settings);
    let unavailable = async |reason: &str| {
        let refused = node_of(&review, "jwt").await.unwrap_err();
        assert_eq!(refused.rule(), "authentication-unavailable");
        assert!(refused.to_string().contains(reason), "{refused}");
    };
    fake.says(StatusCode::FORBIDDEN, "{}");
    unavailable("may the CA's service account create tokenreviews").await;
    fake.says(StatusCode::OK, "garbage");
    unavailable("no review").await;
    fs::remove_file(&fake.settings.token_file).unwrap();
    unavailable("token").await;
    fs::write(&fake.settings.token_file, "again").unwrap();
    fs::write(&fake.settings.root_file, "").unwrap();
    unavailable("ca.crt").await;
}

#[tokio::test]
async fn an_impostor_of_the_api_server_learns_no_token() {
    let (impostor, real) = (FakeApiServer::start().await, FakeApiServer::start().await);
    impostor.reviews_as(&good());
    let settings = TokenReviewSettings {
        root_file: real.directory.path().join("ca.crt"),
        ..impostor.settings.clone()
    };
    let refused = node_of(&TokenReview::new(&settings), "jwt")
        .await
        .unwrap_err();
    assert_eq!(refused.rule(), "authentication-unavailable");
    assert!(impostor.asked.lock().unwrap().is_empty());
}
