//! `tls.keyExchange`: what each pair of settings agrees on, or why it does not.

use rustls::NamedGroup;

use super::{
    TestRoot,
    connect::{Connected, Refused, connect},
    identity,
};
use crate::cert::{
    KeyExchange::{self, Classical, HybridOnly, HybridPreferred},
    Negotiated,
};

async fn handshake(client: KeyExchange, server: KeyExchange) -> Result<Connected, Refused> {
    let root = TestRoot::new();
    let client = root
        .certificate_for(&identity("a"), client)
        .client(&identity("b"));
    let server = root.certificate_for(&identity("b"), server).server;
    connect(client, server).await
}

#[tokio::test]
async fn the_hybrid_is_agreed_on_wherever_both_settings_allow_it() {
    for (client, server) in [
        (HybridPreferred, HybridPreferred),
        (HybridPreferred, HybridOnly),
        (HybridOnly, HybridPreferred),
        (HybridOnly, HybridOnly),
    ] {
        let connected = handshake(client, server).await.ok().unwrap();
        for agreed in [
            Negotiated::of(connected.client.get_ref().1),
            Negotiated::of(connected.server.get_ref().1),
        ] {
            assert_eq!(agreed.key_exchange, Some(NamedGroup::X25519MLKEM768));
            assert_eq!(
                agreed.to_string(),
                "X25519MLKEM768 TLS13_AES_256_GCM_SHA384"
            );
        }
    }
}

#[tokio::test]
async fn a_classical_side_never_uses_the_hybrid() {
    for (client, server) in [
        (Classical, Classical),
        (Classical, HybridPreferred),
        (HybridPreferred, Classical),
    ] {
        let connected = handshake(client, server).await.ok().unwrap();
        let agreed = Negotiated::of(connected.client.get_ref().1).key_exchange;
        assert_ne!(
            agreed,
            Some(NamedGroup::X25519MLKEM768),
            "{client} {server}"
        );
    }
}

#[tokio::test]
async fn sides_that_share_none_are_told_of_the_setting() {
    for (client, server) in [(Classical, HybridOnly), (HybridOnly, Classical)] {
        let refused = handshake(client, server).await.err().unwrap();
        for reason in [refused.client(), refused.server()] {
            assert!(reason.contains("`tls.keyExchange`"), "{reason}");
        }
    }
}
