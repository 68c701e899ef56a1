//! What the two sides agree on: TLS 1.3, HTTP/2, the hybrid key exchange where both know it.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, NamedGroup, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group},
    server::{NoServerSessionStorage, ServerSessionMemoryCache},
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{
    TestRoot,
    connect::{Connected, connect},
    identity, named,
};
use crate::cert::{KeyExchange, describe_tls_error, verifier::ServerIdentityVerifier};

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
async fn a_client_takes_no_server_up_on_its_tickets() {
    let root = TestRoot::new();
    let client = root.certificate(&identity("a")).client(&identity("b"));
    let mut server = Arc::unwrap_or_clone(root.certificate(&identity("b")).server);
    server.session_storage = ServerSessionMemoryCache::new(32);
    server.send_tls13_tickets = 2;
    let server = Arc::new(server);
    for _ in 0..3 {
        let connected = connect(Arc::clone(&client), Arc::clone(&server))
            .await
            .ok()
            .unwrap();
        let (_, tls) = connected.client.get_ref();
        assert_ne!(tls.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        assert_eq!(tls.tls13_tickets_received(), 2);
    }
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
    assert_eq!(
        group_of(&connected.ok().unwrap()),
        NamedGroup::X25519MLKEM768
    );
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
        assert_eq!(group_of(&connected.ok().unwrap()), group.name());

        let our_client = root.certificate(&identity("a")).client(&identity("b"));
        let connected = connect(our_client, server_of_group(&root, group)).await;
        assert_eq!(group_of(&connected.ok().unwrap()), group.name());
    }
}

fn group_of(connected: &Connected) -> NamedGroup {
    let group = |connection: &rustls::CommonState| {
        connection.negotiated_key_exchange_group().unwrap().name()
    };
    let (client, server) = (connected.client.get_ref().1, connected.server.get_ref().1);
    assert_eq!(group(client), group(server));
    group(client)
}

fn of_group(group: &'static dyn SupportedKxGroup) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![group],
        ..CryptoProvider::clone(&KeyExchange::default().provider())
    })
}

fn client_of_group(root: &TestRoot, group: &'static dyn SupportedKxGroup) -> Arc<ClientConfig> {
    let servers = ServerIdentityVerifier::new(root.trust(), [identity("b")].into());
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
