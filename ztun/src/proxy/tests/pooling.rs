//! Connections to peers are shared, and replaced when they die.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::lab::{Lab, listener, rest, round_trip};

#[tokio::test]
async fn connections_of_one_pod_to_another_share_one_tunnel_connection() {
    let lab = Lab::new();
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
    let lab = Lab::new();
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
    let lab = Lab::without_server();
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

#[tokio::test]
async fn a_connect_is_sent_again_once_and_no_more_when_it_is_never_answered() {
    let lab = Lab::without_server();
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(certificate.server.clone());
        loop {
            let mut connection = accept(&peer, &acceptor).await;
            let _request = connection.accept().await.unwrap().unwrap();
        }
    });
    let mut stream = lab.dial().await;
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(lab.client.dialled(), 2);
    serving.abort();
}

#[tokio::test]
async fn a_connect_that_the_peer_did_nothing_with_is_sent_until_it_is_taken() {
    let lab = Lab::without_server();
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(certificate.server.clone());
        for number in 0..4 {
            let mut connection = accept(&peer, &acceptor).await;
            tokio::spawn(async move {
                while let Some(request) = connection.accept().await {
                    let (request, mut respond) = request.unwrap();
                    if number < 3 {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        tokio::spawn(echo(request.into_body(), respond));
                    }
                }
            });
        }
    });
    let mut stream = lab.dial().await;
    round_trip(&mut stream).await;
    assert_eq!(lab.client.dialled(), 4);
    serving.abort();
}

#[tokio::test]
async fn a_peer_that_goes_away_keeps_its_tunnels_and_gets_no_new_ones() {
    let lab = Lab::without_server();
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(certificate.server.clone());
        loop {
            let mut connection = accept(&peer, &acceptor).await;
            tokio::spawn(async move {
                while let Some(request) = connection.accept().await {
                    let (request, respond) = request.unwrap();
                    tokio::spawn(echo(request.into_body(), respond));
                    connection.graceful_shutdown();
                }
            });
        }
    });
    let mut streams = Vec::new();
    for count in 1..=3 {
        let mut stream = lab.dial().await;
        round_trip(&mut stream).await;
        assert_eq!(lab.client.dialled(), count);
        streams.push(stream);
    }
    for stream in &mut streams {
        round_trip(stream).await;
    }
    serving.abort();
}

#[tokio::test]
async fn a_tunnel_that_breaks_after_its_answer_is_never_opened_again() {
    let lab = Lab::without_server();
    let peer = TcpListener::from_std(listener(lab.addresses.hbone)).unwrap();
    let certificate = lab.server.certificate().await;
    let serving = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(certificate.server.clone());
        loop {
            let mut connection = accept(&peer, &acceptor).await;
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            let _send = respond.send_response(Response::new(()), false).unwrap();
            // Sends what is to be sent; no further request comes.
            let _ = timeout(Duration::from_millis(100), connection.accept()).await;
        }
    });
    let mut stream = lab.dial().await;
    stream.write_all(b"data").await.unwrap();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(lab.client.dialled(), 1);
    serving.abort();
}

async fn echo(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) {
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(bytes)) = body.data().await {
        send.send_data(bytes, false).unwrap();
    }
}

/// A client's next connection, as the server has it before the first request.
async fn accept(
    peer: &TcpListener,
    acceptor: &TlsAcceptor,
) -> h2::server::Connection<TlsStream<TcpStream>, Bytes> {
    let (stream, _) = peer.accept().await.unwrap();
    let tls = acceptor.accept(stream).await.unwrap();
    h2::server::handshake(tls).await.unwrap()
}
