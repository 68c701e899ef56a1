//! What applications see of each other through a tunnel.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::lab::{Lab, eventually, reset, rest, round_trip};
use crate::{observe::Security, proxy::hbone::headers::connect_request};

#[tokio::test]
async fn bytes_cross_under_mutual_tls_with_both_identities_known() {
    let lab = Lab::new().await;
    lab.echo();
    let mut stream = lab.dial().await;
    round_trip(&mut stream).await;
    for node in [&lab.client, &lab.server] {
        let [connection] = &node.proxy.connections()[..] else {
            panic!("expected one connection");
        };
        assert_eq!(connection.security, Security::MutualTls);
        assert!(connection.encrypted);
        let identity = |party: &crate::observe::PartyStatus| party.identity.clone().unwrap();
        assert_eq!(identity(&connection.source).service_account(), "client");
        assert_eq!(
            identity(&connection.destination).service_account(),
            "server"
        );
        assert_eq!(connection.bytes_to_destination, 4);
    }
}

#[tokio::test]
async fn the_application_sees_the_clients_address() {
    let lab = Lab::new().await;
    let application = lab.application();
    let _stream = lab.dial().await;
    let (_, peer) = application.accept().await.unwrap();
    assert_eq!(peer.ip(), lab.addresses.client);
}

#[tokio::test]
async fn a_client_that_finished_sending_still_receives() {
    let lab = Lab::new().await;
    let application = lab.application();
    let mut client = lab.dial().await;
    let (mut server, _) = application.accept().await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await.unwrap(), b"question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await.unwrap(), b"answer");
}

#[tokio::test]
async fn a_server_that_finished_sending_still_receives() {
    let lab = Lab::new().await;
    let application = lab.application();
    let mut client = lab.dial().await;
    let (mut server, _) = application.accept().await.unwrap();
    server.write_all(b"greeting").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"greeting");
    client.write_all(b"thanks").await.unwrap();
    drop(client);
    assert_eq!(rest(&mut server).await.unwrap(), b"thanks");
}

#[tokio::test]
async fn a_reset_by_the_server_resets_the_client() {
    let lab = Lab::new().await;
    let application = lab.application();
    let mut client = lab.dial().await;
    let (server, _) = application.accept().await.unwrap();
    reset(server);
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_by_the_client_resets_the_server() {
    let lab = Lab::new().await;
    let application = lab.application();
    let client = lab.dial().await;
    let (mut server, _) = application.accept().await.unwrap();
    reset(client);
    assert_eq!(rest(&mut server).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_still_seen() {
    let lab = Lab::new().await;
    let application = lab.application();
    let mut client = lab.dial().await;
    let (mut server, _) = application.accept().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await.unwrap(), b"");
    reset(server);
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_mebibytes_arrive_intact_both_ways() {
    let lab = Lab::new().await;
    lab.echo();
    let stream = lab.dial().await;
    let sent: Vec<u8> = (0..16_u32 << 18)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let (mut reader, mut writer) = stream.into_split();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(received == expected, "{} bytes differ", received.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_stops_its_writer_and_nobody_else() {
    let lab = Lab::new().await;
    let application = lab.application();
    let mut stalled = lab.dial().await;
    let (_held, _) = application.accept().await.unwrap();
    let chunk = vec![0; 1 << 20];
    let mut written = 0;
    while let Ok(result) =
        tokio::time::timeout(Duration::from_millis(500), stalled.write(&chunk)).await
    {
        written += result.unwrap();
        // The stream's window, and the buffers of three pairs of sockets.
        assert!(written < 96 << 20, "the writer was never stopped");
    }
    let mut other = lab.dial().await;
    let (mut server, _) = application.accept().await.unwrap();
    other.write_all(b"through").await.unwrap();
    other.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await.unwrap(), b"through");
    assert_eq!(lab.client.dialled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_frames_to_a_reader_that_stalls_do_not_end_the_connection() {
    const FRAMES: usize = 400_000;
    let lab = Lab::new().await;
    let application = lab.application();
    let tunnels = lab.tunnels().await;
    let open = || {
        let source = lab.mesh.snapshot();
        let source = source.workload_by_pod(&lab.client.pod).unwrap().clone();
        let (ip, target) = (lab.addresses.client, lab.addresses.application);
        let request = connect_request(target, &source, ip, None, &mut rand::rng());
        tunnels.open(request, Duration::from_secs(10))
    };
    let mut chatty = open().await.unwrap();
    let (mut stalled, _) = application.accept().await.unwrap();
    for sent in 0..FRAMES {
        chatty
            .send
            .send_data(Bytes::from_static(b"ab"), false)
            .unwrap();
        if sent % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    chatty.send.send_data(Bytes::new(), true).unwrap();
    // Another tunnel of the same connection works meanwhile.
    let mut other = open().await.unwrap();
    let (mut server, _) = application.accept().await.unwrap();
    other
        .send
        .send_data(Bytes::from_static(b"through"), true)
        .unwrap();
    assert_eq!(rest(&mut server).await.unwrap(), b"through");
    assert_eq!(rest(&mut stalled).await.unwrap().len(), FRAMES * 2);
}

#[tokio::test]
async fn an_application_that_refuses_resets_the_client() {
    let lab = Lab::new().await;
    let mut client = lab.dial().await;
    assert_eq!(rest(&mut client).await, Err(ErrorKind::ConnectionReset));
    eventually(|| lab.client.proxy.connections().is_empty()).await;
    assert!(lab.client.failed_with("CONNECT"));
}
