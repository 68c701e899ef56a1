//! Handshakes between two identities, in memory: who gets in, who does not, and what is said about it.

use std::{io, sync::Arc, time::Duration};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{
    ClientConfig, NamedGroup, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group},
    pki_types::ServerName,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{DAY, Mood, TestCa, TestClock, TestRoot, dns, identity, trust_domain, uri};
use crate::{
    cert::{
        CertificateManager, CertificateSettings, PeerError, describe_tls_error, peer_identity,
        require_h2, tls, verifier::ServerIdentityVerifier,
    },
    mesh::Identity,
};

struct Connected {
    client: client::TlsStream<DuplexStream>,
    server: server::TlsStream<DuplexStream>,
}

/// How a handshake ended on each side that did not get through it.
struct Refused {
    by_client: Option<io::Error>,
    by_server: Option<io::Error>,
}

/// A handshake and one byte from the server: a TLS 1.3 client is through before it hears of a refusal.
async fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Connected, Refused> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        require_h2(stream.get_ref().1)?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        require_h2(stream.get_ref().1)?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(stream)
    };
    match tokio::join!(client, server) {
        (Ok(client), Ok(server)) => Ok(Connected { client, server }),
        (client, server) => Err(Refused {
            by_client: client.err(),
            by_server: server.err(),
        }),
    }
}

impl Refused {
    fn client(&self) -> String {
        describe_tls_error(self.by_client.as_ref().unwrap())
    }

    fn server(&self) -> String {
        describe_tls_error(self.by_server.as_ref().unwrap())
    }

    fn server_identity_error(&self) -> &PeerError {
        let error = self.by_server.as_ref().unwrap();
        PeerError::of(tls::tls_error(error).unwrap()).unwrap()
    }
}

impl Connected {
    fn group(&self) -> NamedGroup {
        let group = |connection: &rustls::CommonState| {
            connection.negotiated_key_exchange_group().unwrap().name()
        };
        let (client, server) = (self.client.get_ref().1, self.server.get_ref().1);
        assert_eq!(group(client), group(server));
        group(client)
    }
}

/// A client with whatever certificate, that expects `b`.
fn client_with(root: &TestRoot, key: Arc<CertifiedKey>) -> Arc<ClientConfig> {
    Arc::new(tls::client_config(key, root.store(), [identity("b")].into()).unwrap())
}

fn server_with(root: &TestRoot, key: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    Arc::new(tls::server_config(key, root.store(), [trust_domain()].into()).unwrap())
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

fn named(service_account: &str) -> Vec<SanType> {
    vec![uri(&identity(service_account).to_string())]
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
async fn a_connection_never_resumes_an_earlier_one() {
    let root = TestRoot::new();
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let server = root.certificate(&identity("b")).server;
    for _ in 0..3 {
        let connected = connect(Arc::clone(&client), Arc::clone(&server))
            .await
            .ok()
            .unwrap();
        let (_, tls) = connected.client.get_ref();
        assert_ne!(tls.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        assert_eq!(tls.tls13_tickets_received(), 0);
    }
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
    let servers = ServerIdentityVerifier::new(root.store(), [identity("b")].into());
    let mut client = ClientConfig::builder_with_provider(tls::provider())
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
            params.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
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
    assert!(reason.contains("not valid yet"), "{reason}");
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
    let expected = "not signed by a root of this mesh";
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

#[tokio::test]
async fn only_http2_is_spoken() {
    let root = TestRoot::new();
    for offer in [vec![], vec![b"http/1.1".to_vec()]] {
        let client = root.certificate(&identity("a")).client(&identity("b"));
        let mut client = Arc::unwrap_or_clone(client);
        client.alpn_protocols = offer;
        let server = root.certificate(&identity("b")).server;
        let refused = connect(Arc::new(client), server).await.err().unwrap();
        assert_eq!(refused.server(), "the peer does not offer HTTP/2 (ALPN h2)");
    }
}

#[tokio::test]
async fn a_server_that_chooses_no_protocol_is_refused() {
    let root = TestRoot::new();
    let server = root.certificate(&identity("b")).server;
    let mut server = Arc::unwrap_or_clone(server);
    server.alpn_protocols.clear();
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let refused = connect(client, Arc::new(server)).await.err().unwrap();
    assert_eq!(refused.client(), "the peer does not offer HTTP/2 (ALPN h2)");
}

#[tokio::test]
async fn the_hybrid_key_exchange_is_used_by_default() {
    let root = TestRoot::new();
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let connected = connect(client, root.certificate(&identity("b")).server).await;
    assert_eq!(connected.ok().unwrap().group(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn peers_that_know_one_key_exchange_only_are_accepted() {
    let root = TestRoot::new();
    for group in [
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
        kx_group::X25519MLKEM768,
    ] {
        let our_server = root.certificate(&identity("b")).server;
        let connected = connect(client_of_group(&root, group), our_server).await;
        assert_eq!(connected.ok().unwrap().group(), group.name());

        let our_client = root.certificate(&identity("a")).client(&identity("b"));
        let connected = connect(our_client, server_of_group(&root, group)).await;
        assert_eq!(connected.ok().unwrap().group(), group.name());
    }
}

fn of_group(group: &'static dyn SupportedKxGroup) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![group],
        ..CryptoProvider::clone(&tls::provider())
    })
}

fn client_of_group(root: &TestRoot, group: &'static dyn SupportedKxGroup) -> Arc<ClientConfig> {
    let servers = ServerIdentityVerifier::new(root.store(), [identity("b")].into());
    let key = root.odd(named("a"), |_| {});
    let mut config = ClientConfig::builder_with_provider(of_group(group))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn server_of_group(root: &TestRoot, group: &'static dyn SupportedKxGroup) -> Arc<ServerConfig> {
    let key = root.odd(named("b"), |_| {});
    let mut config = ServerConfig::builder_with_provider(of_group(group))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// What a client of before TLS 1.3 sends: no `supported_versions` extension (RFC 8446, 4.2.1).
fn tls12_client_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        0, 16, 0, 5, 0, 3, 2, b'h', b'2', // ALPN: h2
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.push(0); // no session id
    hello.extend([0, 2, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    hello.extend([1, 0]); // no compression
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat()
}

#[test]
fn a_tls_1_2_client_is_refused() {
    let server = TestRoot::new().certificate(&identity("b")).server;
    let mut connection = ServerConnection::new(server).unwrap();
    connection.read_tls(&mut &tls12_client_hello()[..]).unwrap();
    let error = connection.process_new_packets().unwrap_err();
    assert!(
        matches!(error, rustls::Error::PeerIncompatible(_)),
        "{error}"
    );
    let reason = describe_tls_error(&io::Error::other(error));
    assert!(
        reason.contains("does not speak the mesh's TLS 1.3"),
        "{reason}"
    );
}

#[test]
fn what_is_not_tls_is_called_so() {
    let server = TestRoot::new().certificate(&identity("b")).server;
    let mut connection = ServerConnection::new(server).unwrap();
    connection
        .read_tls(&mut &b"GET / HTTP/1.1\r\n\r\n"[..])
        .unwrap();
    let error = connection.process_new_packets().unwrap_err();
    let reason = describe_tls_error(&io::Error::other(error));
    assert_eq!(reason, "what the peer sent is not TLS");
}

#[test]
fn a_certificate_prints_no_key() {
    let certificate = TestRoot::new().certificate(&identity("a"));
    let printed = format!("{certificate:?}");
    assert!(printed.contains(&certificate.serial));
    assert!(
        !printed.contains("server") && !printed.contains("key"),
        "{printed}"
    );
}

#[tokio::test(start_paused = true)]
async fn rotation_leaves_open_connections_alone_and_new_ones_use_the_new_certificate() {
    let clock = TestClock::new();
    let ca = TestCa::new(&clock, Mood::Signs);
    let settings = CertificateSettings {
        lifetime: Duration::from_secs(200),
        ..CertificateSettings::new([trust_domain()])
    };
    let manager = CertificateManager::new(ca, settings, clock);
    let (a, b) = (identity("a"), identity("b"));
    manager.retain(&a);
    manager.retain(&b);
    let pair = async || {
        let (a, server) = tokio::join!(manager.certificate(&a), manager.certificate(&b));
        (a.unwrap(), server.unwrap())
    };

    let (old_client, old_server) = pair().await;
    let old = connect(old_client.client(&b), Arc::clone(&old_server.server)).await;
    let mut old = old.ok().unwrap();
    tokio::time::sleep(Duration::from_secs(115)).await;
    let (new_client, new_server) = pair().await;
    assert_ne!(new_client.serial, old_client.serial);
    assert_ne!(new_server.serial, old_server.serial);

    old.client.write_all(b"still here").await.unwrap();
    old.client.flush().await.unwrap();
    let mut read = [0; 10];
    old.server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");

    for (client, server) in [
        (&new_client, &new_server),
        (&old_client, &new_server),
        (&new_client, &old_server),
    ] {
        let connected = connect(client.client(&b), Arc::clone(&server.server)).await;
        let connected = connected.ok().unwrap();
        let presented = connected.client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let (_, presented) = x509_parser::parse_x509_certificate(&presented).unwrap();
        assert_eq!(format!("{:x}", presented.serial), server.serial);
    }
}
