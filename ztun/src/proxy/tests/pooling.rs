//! Connections to peers are shared, and replaced when they die.

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::lab::{Lab, listener, round_trip};

#[tokio::test]
async fn connections_of_one_pod_to_another_share_one_tunnel_connection() {
    let lab = Lab::new().await;
    lab.echo();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(lab.dial().await);
    }
    for stream in &mut streams {
        round_trip(stream).await;
    }
    assert_eq!(lab.client.dialled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_a_connection_takes_open_another() {
    let lab = Lab::new().await;
    lab.echo();
    let mut streams = Vec::new();
    for _ in 0..150 {
        streams.push(lab.dial().await);
    }
    for stream in &mut streams {
        round_trip(stream).await;
    }
    assert_eq!(lab.client.dialled(), 2);
}

#[tokio::test]
async fn a_connect_that_dies_unanswered_with_its_connection_is_sent_again_in_a_fresh_one() {
    let lab = Lab::without_server().await;
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(certificate.server.clone());
        // The first connection answers one CONNECT and dies at the second.
        let (stream, _) = peer.accept().await.unwrap();
        let mut first = h2::server::handshake(acceptor.accept(stream).await.unwrap())
            .await
            .unwrap();
        let (request, respond) = first.accept().await.unwrap().unwrap();
        tokio::spawn(echo(request.into_body(), respond));
        let _second = first.accept().await.unwrap().unwrap();
        drop(first);
        let (stream, _) = peer.accept().await.unwrap();
        let mut fresh = h2::server::handshake(acceptor.accept(stream).await.unwrap())
            .await
            .unwrap();
        while let Some(request) = fresh.accept().await {
            let (request, respond) = request.unwrap();
            tokio::spawn(echo(request.into_body(), respond));
        }
    });
    let mut first = lab.dial().await;
    round_trip(&mut first).await;
    let mut second = lab.dial().await;
    round_trip(&mut second).await;
    assert_eq!(lab.client.dialled(), 2);
    serving.abort();
}

async fn echo(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) {
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(bytes)) = body.data().await {
        send.send_data(bytes, false).unwrap();
    }
}
