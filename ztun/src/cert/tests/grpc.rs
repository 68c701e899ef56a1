//! The client of the CA's API against a fake CA, over real sockets; time is real, and nothing waits for it.

use std::{fs, time::Duration};

use prost_types::value::Kind;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use tonic::Status;

use super::{
    DAY, TestRoot,
    fake_ca::{Conduct, FakeCa},
    identity, trust_domain,
};
use crate::cert::{
    CaError, CertificateAuthority, CertificateManager, CertificateRequest, CertificateSettings,
    GrpcCa, GrpcCaSettings, IssuedChain, clock::SystemClock, key::WorkloadKey,
};

fn request() -> CertificateRequest {
    let identity = identity("a");
    let key = WorkloadKey::generate(&identity).unwrap();
    CertificateRequest {
        csr: key.request(&identity).unwrap(),
        identity,
        lifetime: DAY,
    }
}

async fn ask(client: &GrpcCa) -> Result<IssuedChain, CaError> {
    client.issue(&request()).await
}

async fn error(client: &GrpcCa) -> CaError {
    ask(client).await.unwrap_err()
}

/// Asserts that asking fails with that label and a text with all of `parts` and the CA's name.
async fn fails(client: &GrpcCa, label: &str, parts: &[&str]) {
    let error = error(client).await;
    assert_eq!(error.label(), label, "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.contains(&client.to_string()), "{text}");
}

#[tokio::test]
async fn a_certificate_is_asked_for_as_the_api_says() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let (client, request) = (ca.client(), request());
    let issued = client.issue(&request).await.unwrap();
    assert_eq!(issued.pem.matches("BEGIN CERTIFICATE").count(), 2);

    let (authorization, cluster, message) = ca.last_request();
    assert_eq!(authorization, "Bearer first-token");
    assert_eq!(cluster, "Kubernetes");
    assert_eq!(message.validity_duration, 86_400);
    let csr = CertificateSigningRequestDer::from_pem_slice(message.csr.as_bytes()).unwrap();
    assert_eq!(csr, *request.csr.der());
    let metadata = message.metadata.unwrap().fields;
    let impersonated = metadata["ImpersonatedIdentity"].kind.clone();
    let identity = "spiffe://cluster.local/ns/default/sa/a".to_owned();
    assert_eq!(impersonated, Some(Kind::StringValue(identity)));
}

#[tokio::test]
async fn a_manager_over_the_network_gets_a_certificate() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let manager = CertificateManager::new(
        std::sync::Arc::new(ca.client()),
        CertificateSettings::new(trust_domain()),
        std::sync::Arc::new(SystemClock),
    );
    manager.retain(&identity("a"));
    let certificate = manager.certificate(&identity("a")).await.unwrap();
    assert_eq!(certificate.identity, identity("a"));
}

#[tokio::test]
async fn what_the_ca_says_is_passed_on_with_what_to_check() {
    for (status, label, part) in [
        (
            Status::permission_denied("no such pod"),
            "refused",
            "no such pod; check that a pod",
        ),
        (Status::invalid_argument("bad CSR"), "refused", "bad CSR"),
        (
            Status::unauthenticated("stale"),
            "unauthenticated",
            "this node's token: stale",
        ),
        (
            Status::resource_exhausted("slow down"),
            "unavailable",
            "slow down",
        ),
        (
            Status::unimplemented(""),
            "unavailable",
            "IstioCertificateService",
        ),
        (
            Status::internal("disk full"),
            "unavailable",
            "disk full (Internal)",
        ),
    ] {
        let ca = FakeCa::start(Conduct::Says(status)).await;
        fails(&ca.client(), label, &[part]).await;
    }
}

#[tokio::test]
async fn answers_that_are_no_chain_are_refused() {
    for chain in [vec![], vec!["garbage".to_owned(), "of two".to_owned()]] {
        let ca = FakeCa::start(Conduct::Answers(chain)).await;
        assert_eq!(error(&ca.client()).await.label(), "malformed");
    }
    let ca = FakeCa::start(Conduct::Answers(vec!["x".repeat(2 << 20)])).await;
    assert_eq!(error(&ca.client()).await.label(), "unavailable");
}

#[tokio::test]
async fn a_connection_that_makes_no_sense_is_reported_and_the_next_request_is_served() {
    for conduct in [
        Conduct::SpeaksNoTls,
        Conduct::SpeaksGarbage,
        Conduct::ClosesMidAnswer,
    ] {
        let ca = FakeCa::start(conduct).await;
        let client = ca.client();
        fails(&client, "unavailable", &["check that it runs"]).await;
        ca.becomes(Conduct::Signs);
        ask(&client).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_nothing_behind_that_hangs() {
    for conduct in [Conduct::NeverShakesHands, Conduct::NeverAnswers] {
        let ca = FakeCa::start(conduct).await;
        let client = ca.client();
        let given_up = tokio::time::timeout(Duration::from_millis(200), ask(&client)).await;
        assert!(given_up.is_err());
        ca.becomes(Conduct::Signs);
        ask(&client).await.unwrap();
        assert_eq!(ca.connections(), 2);
    }
}

#[tokio::test]
async fn a_ca_that_is_not_there_is_named() {
    let ca = FakeCa::start(Conduct::Signs).await;
    ca.stop();
    tokio::task::yield_now().await;
    fails(
        &ca.client(),
        "unavailable",
        &["refused", "https://localhost:"],
    )
    .await;
}

#[tokio::test]
async fn a_connection_is_used_again_until_the_ca_closes_it() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let client = ca.client();
    for _ in 0..3 {
        ask(&client).await.unwrap();
    }
    assert_eq!(ca.connections(), 1);

    ca.becomes(Conduct::ClosesMidAnswer);
    error(&client).await;
    ca.becomes(Conduct::Signs);
    ask(&client).await.unwrap();
    assert_eq!(ca.connections(), 2);
}

#[tokio::test]
async fn a_ca_of_another_root_gets_no_token_until_the_root_file_has_that_root() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let client = ca.client();
    let other = TestRoot::new();
    ca.shows(&other, "localhost");
    let file = ca.root_file().display().to_string();
    fails(
        &client,
        "untrusted",
        &["no root in that file signed", &file],
    )
    .await;

    assert_eq!(ca.requests(), 0);

    fs::write(ca.root_file(), &other.pem).unwrap();
    ask(&client).await.unwrap();
}

#[tokio::test]
async fn a_replaced_root_counts_for_open_connections_as_well() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let client = ca.client();
    ask(&client).await.unwrap();
    fs::write(ca.root_file(), TestRoot::new().pem).unwrap();
    fails(&client, "untrusted", &["no root in that file signed"]).await;
}

#[tokio::test]
async fn a_ca_of_another_name_is_not_trusted() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let root = TestRoot::new();
    fs::write(ca.root_file(), &root.pem).unwrap();
    ca.shows(&root, "elsewhere.example");
    fails(
        &ca.client(),
        "untrusted",
        &["localhost", "elsewhere.example", "ca.address"],
    )
    .await;
}

#[tokio::test]
async fn a_replaced_token_is_sent_with_the_next_request() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let client = ca.client();
    ask(&client).await.unwrap();
    fs::write(ca.token_file(), "second-token").unwrap();
    ask(&client).await.unwrap();
    assert_eq!(ca.last_request().0, "Bearer second-token");
}

#[tokio::test]
async fn files_that_are_missing_or_make_no_sense_are_named_with_their_setting() {
    let ca = FakeCa::start(Conduct::Signs).await;
    let client = ca.client();
    let (root, token) = (ca.root_file(), ca.token_file());
    let (root_name, token_name) = (root.display().to_string(), token.display().to_string());
    for text in ["", "not PEM\n"] {
        let good = fs::read(&root).unwrap();
        fs::write(&root, text).unwrap();
        fails(
            &client,
            "not-configured",
            &[&root_name, "ca.rootFile", "no certificate"],
        )
        .await;
        fs::write(&root, good).unwrap();
    }
    for text in ["", " \n", "two\nlines"] {
        fs::write(&token, text).unwrap();
        fails(&client, "not-configured", &[&token_name, "ca.tokenFile"]).await;
    }
    fs::remove_file(&token).unwrap();
    fails(&client, "not-configured", &[&token_name, "No such file"]).await;
    fs::write(&token, "token").unwrap();
    fs::remove_file(&root).unwrap();
    fails(&client, "not-configured", &[&root_name, "No such file"]).await;
}

#[tokio::test]
async fn neither_errors_nor_the_client_print_the_token() {
    let ca = FakeCa::start(Conduct::Says(Status::unauthenticated("no"))).await;
    let client = ca.client();
    let printed = format!("{:?} {client:?}", error(&client).await);
    assert!(!printed.contains("first-token"), "{printed}");
}

#[test]
fn a_cluster_id_that_no_header_can_carry_is_refused() {
    let error = GrpcCa::new(GrpcCaSettings {
        address: "https://ca:15012".parse().unwrap(),
        root_file: "/root.pem".into(),
        token_file: "/token".into(),
        cluster_id: "clüster\n".into(),
    })
    .unwrap_err();
    assert!(error.to_string().contains("clusterId"), "{error}");
}
