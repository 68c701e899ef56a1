//! Connections that are open when something changes: policy, the pod, the proxy itself.

use std::{io::ErrorKind, time::Duration};

use tokio::io::AsyncWriteExt;

use super::lab::{Lab, eventually, rest, round_trip};

#[tokio::test]
async fn a_connection_that_policy_no_longer_allows_is_reset() {
    let lab = Lab::new().await;
    lab.echo();
    let mut stream = lab.dial().await;
    round_trip(&mut stream).await;
    lab.deny_server();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    eventually(|| lab.server.failed_with("DENY")).await;
}

#[tokio::test]
async fn the_connections_of_a_pod_that_is_removed_are_reset() {
    for server_side in [false, true] {
        let lab = Lab::new().await;
        lab.echo();
        let mut stream = lab.dial().await;
        round_trip(&mut stream).await;
        let node = if server_side {
            &lab.server
        } else {
            &lab.client
        };
        assert!(node.proxy.remove_pod(&node.pod));
        assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
        assert!(!node.proxy.remove_pod(&node.pod));
    }
}

#[tokio::test]
async fn a_drain_waits_for_open_connections() {
    let lab = Lab::new().await;
    lab.echo();
    let mut stream = lab.dial().await;
    round_trip(&mut stream).await;
    let draining = lab.server.proxy.clone();
    let drained = tokio::spawn(async move { draining.drain(Duration::from_mins(1)).await });
    eventually(|| lab.server.proxy.draining.is_cancelled()).await;
    round_trip(&mut stream).await;
    assert!(!drained.is_finished());
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), b"");
    drained.await.unwrap();
}

#[tokio::test]
async fn what_is_open_at_the_end_of_a_drain_is_reset() {
    let lab = Lab::new().await;
    lab.echo();
    let mut stream = lab.dial().await;
    round_trip(&mut stream).await;
    lab.client.proxy.drain(Duration::ZERO).await;
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
}
