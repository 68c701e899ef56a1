//! Handshakes between two identities, in memory: who gets in, who does not, and what is said about it.

use std::{sync::Arc, time::Duration};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, ServerConfig, sign::CertifiedKey, version::TLS13};

use super::{
    DAY, TestRoot,
    connect::{Refused, connect},
    dns, identity, named, uri,
};
use crate::{
    cert::{KeyExchange, PeerError, peer_identity, tls, verifier::ServerIdentityVerifier},
    mesh::Identity,
};

/// A client with whatever certificate, that expects `b`.
fn client_with(root: &TestRoot, key: Arc<CertifiedKey>) -> Arc<ClientConfig> {
    let expected = [identity("b")].into();
    Arc::new(tls::client_config(key, root.trust(), expected, KeyExchange::default()).unwrap())
}

fn server_with(root: &TestRoot, key: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    Arc::new(tls::server_config(key, root.trust(), KeyExchange::default()).unwrap())
}

/// What the server `b` makes of a client with this certificate.
async fn refused_client(root: &TestRoot, key: Arc<CertifiedKey>) -> Refused {
    let server = root.certificate(&identity("b")).server;
    let refused = connect(client_with(root, key), server).await;
    refused.err().expect("the client was let in")
}

/// What a client that expects `b` makes of a server with this certificate.
async fn refused_server(root: &TestRoot, key: Arc<CertifiedKey>) -> Refused {
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let refused = connect(client, server_with(root, key)).await;
    refused.err().expect("the server was accepted")
}

#[tokio::test]
async fn both_sides_learn_the_others_identity() {
    let root = TestRoot::new();
    let (a, b) = (
        root.certificate(&identity("a")),
        root.certificate(&identity("b")),
    );
    let connected = connect(a.client(&identity("b")), b.server)
        .await
        .ok()
        .unwrap();
    assert_eq!(
        peer_identity(connected.client.get_ref().1),
        Ok(identity("b"))
    );
    assert_eq!(
        peer_identity(connected.server.get_ref().1),
        Ok(identity("a"))
    );
    let (_, server) = connected.server.get_ref();
    assert_eq!(server.server_name(), None);
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_server_that_is_not_the_expected_one_is_refused() {
    let root = TestRoot::new();
    let a = root.certificate(&identity("a"));
    let other = root.certificate(&identity("other"));
    let refused = connect(a.client(&identity("b")), other.server).await;
    assert_eq!(
        refused.err().unwrap().client(),
        "the certificate presented is of spiffe://cluster.local/ns/default/sa/other, expected spiffe://cluster.local/ns/default/sa/b"
    );
}

#[tokio::test]
async fn a_server_may_be_any_of_several_expected_ones() {
    let root = TestRoot::new();
    let a = root.certificate(&identity("a"));
    let expected: Arc<[Identity]> = [identity("c"), identity("b")].into();
    for (service_account, accepted) in [("b", true), ("c", true), ("d", false)] {
        let server = root.certificate(&identity(service_account)).server;
        let connected = connect(a.client_of_any(Arc::clone(&expected)), server).await;
        assert_eq!(connected.is_ok(), accepted, "{service_account}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let root = TestRoot::new();
    let servers = ServerIdentityVerifier::new(root.trust(), [identity("b")].into());
    let mut client = ClientConfig::builder_with_provider(KeyExchange::default().provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let server = root.certificate(&identity("b")).server;
    let refused = connect(Arc::new(client), server).await.err().unwrap();
    assert_eq!(
        refused.server(),
        "no certificate was presented; in the mesh every client presents one"
    );
}

#[tokio::test]
async fn a_client_of_an_untrusted_trust_domain_is_refused() {
    let root = TestRoot::new();
    let key = root.odd(vec![uri("spiffe://elsewhere/ns/default/sa/a")], |_| {});
    let refused = refused_client(&root, key).await;
    assert!(matches!(
        refused.server_identity_error(),
        PeerError::UntrustedDomain { .. }
    ));
    assert_eq!(
        refused.server(),
        "the certificate presented is of spiffe://elsewhere/ns/default/sa/a, whose trust domain this mesh does not trust (it trusts cluster.local)"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let root = TestRoot::new();
    let expired = |service_account| {
        root.odd(named(service_account), |params| {
            params.not_after = time::OffsetDateTime::now_utc() - Duration::from_mins(1);
        })
    };
    assert!(
        refused_client(&root, expired("a"))
            .await
            .server()
            .contains("expired")
    );
    let refused = refused_server(&root, expired("b")).await;
    assert!(refused.client().contains("expired"), "{}", refused.client());
    assert!(
        refused
            .server()
            .contains("this node's certificate expired; check both nodes' clocks"),
        "{}",
        refused.server()
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let root = TestRoot::new();
    let key = root.odd(named("a"), |params| {
        params.not_before = time::OffsetDateTime::now_utc() + DAY / 2;
    });
    let reason = refused_client(&root, key).await.server();
    assert!(reason.contains("not valid before"), "{reason}");
}

#[tokio::test]
async fn a_certificate_without_exactly_one_workload_identity_is_refused() {
    let root = TestRoot::new();
    let own = |service_account| named(service_account).remove(0);
    for (names, reason) in [
        (
            vec![],
            "has no SPIFFE identity: expected one URI name, found nothing",
        ),
        (
            vec![dns("b.default.svc")],
            "expected one URI name, found DNSName(b.default.svc)",
        ),
        (
            vec![own("b"), own("a")],
            "several URI names, expected exactly one",
        ),
        (
            vec![own("b"), uri("https://example.org")],
            "several URI names, expected exactly one",
        ),
        (
            vec![uri("https://example.org/b")],
            "names no workload: `https://example.org/b`",
        ),
        (
            vec![uri("spiffe://cluster.local/b")],
            "names no workload: `spiffe://cluster.local/b`",
        ),
    ] {
        let by_server = refused_client(&root, root.odd(names.clone(), |_| {}))
            .await
            .server();
        assert!(by_server.contains(reason), "{names:?}: {by_server}");
        let by_client = refused_server(&root, root.odd(names.clone(), |_| {}))
            .await
            .client();
        assert!(by_client.contains(reason), "{names:?}: {by_client}");
    }
}

#[tokio::test]
async fn dns_names_beside_the_identity_are_ignored() {
    let root = TestRoot::new();
    let mut names = named("b");
    names.push(dns("anything.example"));
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let connected = connect(client, server_with(&root, root.odd(names, |_| {}))).await;
    assert!(connected.is_ok());
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused_whatever_that_root_is_called() {
    let root = TestRoot::new();
    let expected = "not signed by a root that this mesh trusts";
    for other in [TestRoot::new(), TestRoot::of(&"elsewhere".parse().unwrap())] {
        let by_server = refused_client(&root, other.odd(named("a"), |_| {})).await;
        let (server, client) = (by_server.server(), by_server.client());
        assert!(server.contains(expected), "{server}");
        assert!(
            client.contains("does not trust this node's root"),
            "{client}"
        );
        let by_client = refused_server(&root, other.odd(named("b"), |_| {})).await;
        assert!(
            by_client.client().contains(expected),
            "{}",
            by_client.client()
        );
    }
}

#[tokio::test]
async fn a_certificate_for_the_other_role_only_is_refused() {
    let root = TestRoot::new();
    let only = |service_account, purpose: ExtendedKeyUsagePurpose| {
        root.odd(named(service_account), |params| {
            params.extended_key_usages = vec![purpose];
        })
    };
    let client = only("a", ExtendedKeyUsagePurpose::ServerAuth);
    let reason = refused_client(&root, client).await.server();
    assert!(
        reason.contains("certificate presented is refused"),
        "{reason}"
    );
    let server = only("b", ExtendedKeyUsagePurpose::ClientAuth);
    let reason = refused_server(&root, server).await.client();
    assert!(
        reason.contains("certificate presented is refused"),
        "{reason}"
    );
}
