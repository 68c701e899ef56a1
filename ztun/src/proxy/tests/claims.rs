//! What tunnels' headers say about who connects, and where it shows.

use std::time::Duration;

use http::{Method, Request};

use super::lab::Lab;

const OPENED: &str = "istio_tcp_connections_opened_total";
const BAGGAGE: &str = "k8s.cluster.name=far,k8s.namespace.name=lab,k8s.deployment.name=web,service.name=shop,service.version=v2";

#[tokio::test]
async fn a_client_that_the_mesh_does_not_know_is_named_by_its_baggage() {
    let lab = Lab::new();
    lab.forget_client();
    connect(&lab, &[("baggage", BAGGAGE)]).await;
    let labels = [
        ("source_workload", "web"),
        ("source_workload_namespace", "lab"),
        ("source_canonical_service", "shop"),
        ("source_app", "shop"),
        ("source_version", "v2"),
        ("source_cluster", "far"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/lab/sa/client",
        ),
    ];
    assert!(lab.server.counted(OPENED, &labels));
}

#[tokio::test]
async fn what_the_mesh_knows_beats_baggage() {
    let lab = Lab::new();
    connect(&lab, &[("baggage", BAGGAGE)]).await;
    let labels = [
        ("source_workload", "client"),
        ("source_version", "latest"),
        ("source_cluster", "Kubernetes"),
    ];
    assert!(lab.server.counted(OPENED, &labels));
}

#[tokio::test]
async fn baggage_of_another_namespace_than_the_certificates_is_not_believed() {
    let lab = Lab::new();
    lab.forget_client();
    let baggage = BAGGAGE.replace("namespace.name=lab", "namespace.name=kube-system");
    connect(&lab, &[("baggage", &baggage)]).await;
    let labels = [
        ("source_workload", "unknown"),
        ("source_workload_namespace", "unknown"),
        ("source_cluster", "unknown"),
    ];
    assert!(lab.server.counted(OPENED, &labels));
}

#[tokio::test]
async fn the_service_that_a_client_meant_is_named_if_this_pod_is_behind_it() {
    for (host, service) in [
        (
            "server.lab.svc.cluster.local",
            "server.lab.svc.cluster.local",
        ),
        ("other.lab.svc.cluster.local", "unknown"),
        ("server.lab.svc.example.com", "unknown"),
        ("invented", "unknown"),
    ] {
        let lab = Lab::new();
        connect(
            &lab,
            &[("forwarded", &format!("for=192.0.2.1;host={host}"))],
        )
        .await;
        let labels = [("destination_service", service)];
        assert!(lab.server.counted(OPENED, &labels), "{host}");
    }
}

#[tokio::test]
async fn malformed_headers_change_nothing() {
    let lab = Lab::new();
    lab.forget_client();
    let headers = [("baggage", "k8s.cluster.name=%ff"), ("forwarded", "for=\"")];
    connect(&lab, &headers).await;
    assert!(lab.server.counted(OPENED, &[("source_cluster", "unknown")]));
}

async fn connect(lab: &Lab, headers: &[(&str, &str)]) {
    lab.echo();
    let mut request = Request::builder().method(Method::CONNECT);
    request = request.uri(lab.addresses.application.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let tunnels = lab.tunnels().await;
    let request = request.body(()).unwrap();
    tunnels
        .open(request, Duration::from_secs(10))
        .await
        .unwrap();
}
