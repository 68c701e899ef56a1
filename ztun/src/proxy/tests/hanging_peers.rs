//! A peer that hangs at one stage: the application is reset with that stage's label, others are not held up.

use std::io::ErrorKind;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::lab::{Lab, eventually, listener, rest};

/// How far a peer goes before it says no more.
#[derive(Clone, Copy)]
enum Hang {
    AfterTcp,
    AfterTls,
    AfterHttp2,
}

#[tokio::test]
async fn a_peer_that_hangs_in_tls_is_a_tls_failure() {
    assert_label(Hang::AfterTcp, "TLS_FAILURE").await;
}

#[tokio::test]
async fn a_peer_that_hangs_in_http2_is_an_http2_failure() {
    assert_label(Hang::AfterTls, "H2_HANDSHAKE_FAILURE").await;
}

#[tokio::test]
async fn a_peer_that_never_answers_a_connect_is_a_connect_failure() {
    assert_label(Hang::AfterHttp2, "CONNECT").await;
}

#[tokio::test]
async fn a_peer_without_a_proxy_is_never_reached_in_plaintext() {
    let lab = Lab::without_server().await;
    let application = lab.application();
    let mut client = lab.dial().await;
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
    eventually(|| lab.client.failed_with("CONNECT")).await;
    assert!(futures_util::FutureExt::now_or_never(application.accept()).is_none());
}

#[tokio::test]
async fn streams_that_wait_for_one_peer_share_its_one_set_up() {
    let lab = Lab::without_server().await;
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(lab.dial().await);
    }
    let _held = peer.accept().await.unwrap();
    for client in &mut clients {
        assert_eq!(rest(client).await, Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(lab.client.dialled(), 1);
}

async fn assert_label(hang: Hang, label: &str) {
    let lab = Lab::without_server().await;
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let hanging = tokio::spawn(async move {
        let (stream, _) = peer.accept().await.unwrap();
        if matches!(hang, Hang::AfterTcp) {
            return std::future::pending::<()>().await;
        }
        let tls: TlsStream<TcpStream> = TlsAcceptor::from(certificate.server.clone())
            .accept(stream)
            .await
            .unwrap();
        if matches!(hang, Hang::AfterTls) {
            let _held = tls;
            return std::future::pending::<()>().await;
        }
        let mut http2 = h2::server::handshake(tls).await.unwrap();
        let mut held: Vec<(_, h2::server::SendResponse<Bytes>)> = Vec::new();
        while let Some(request) = http2.accept().await {
            held.push(request.unwrap());
        }
    });
    let mut client = lab.dial().await;
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
    eventually(|| lab.client.proxy.connections().is_empty()).await;
    assert!(lab.client.failed_with(label));
    hanging.abort();
}
