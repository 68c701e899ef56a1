//! What the inbound side answers to a peer whose certificate is good.

use std::time::Duration;

use http::{Method, Request, StatusCode};

use super::lab::{HBONE_PORT, Lab};
use crate::proxy::ProxyError;

#[tokio::test]
async fn a_tunnel_to_anything_but_this_pod_is_a_bad_request() {
    let lab = Lab::new().await;
    lab.echo();
    let ip = lab.addresses.server;
    for authority in [
        format!("{}:8080", lab.addresses.client),
        "server.lab.svc.cluster.local:8080".to_owned(),
        format!("{ip}:15001"),
        format!("{ip}:15006"),
        format!("{ip}:15008"),
        format!("{ip}:{HBONE_PORT}"),
    ] {
        let status = answer(&lab, Method::CONNECT, &authority).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{authority}");
    }
    let good = lab.addresses.application.to_string();
    assert_eq!(answer(&lab, Method::CONNECT, &good).await, StatusCode::OK);
}

#[tokio::test]
async fn another_method_is_not_allowed() {
    let lab = Lab::new().await;
    let uri = format!("https://{}/", lab.addresses.application);
    let status = answer(&lab, Method::GET, &uri).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_policy_denies_is_unauthorized() {
    let lab = Lab::new().await;
    lab.echo();
    lab.deny_server();
    let target = lab.addresses.application.to_string();
    let status = answer(&lab, Method::CONNECT, &target).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(lab.server.failed_with("DENY"));
}

#[tokio::test]
async fn an_application_that_is_not_there_is_unavailable() {
    let lab = Lab::new().await;
    let target = lab.addresses.application.to_string();
    let status = answer(&lab, Method::CONNECT, &target).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

async fn answer(lab: &Lab, method: Method, uri: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let tunnels = lab.tunnels().await;
    match tunnels.open(request, Duration::from_secs(10)).await {
        Ok(_) => StatusCode::OK,
        Err(ProxyError::DeniedByPeer { .. }) => StatusCode::UNAUTHORIZED,
        Err(ProxyError::RefusedByPeer { status, .. }) => status,
        Err(error) => panic!("no answer: {error}"),
    }
}
