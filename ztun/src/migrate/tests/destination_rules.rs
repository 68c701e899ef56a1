//! `DestinationRule`.

use super::*;

#[test]
fn every_tls_mode_is_listed_where_it_stands_and_the_rest_once() {
    let migration = run("
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    tls: {mode: ISTIO_MUTUAL}
    portLevelSettings:
    - {port: {number: 80}, tls: {mode: DISABLE}}
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE}}}
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: db, namespace: shop}
spec:
  host: db.example.com
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}}
    tls: {mode: MUTUAL, clientCertificate: /etc/certs/cert.pem}
");
    assert_eq!(migration.policies, []);
    for (field, text) in [
        ("spec.trafficPolicy.tls.mode", "ISTIO_MUTUAL to `cart`"),
        (
            "spec.trafficPolicy.portLevelSettings[0].tls.mode",
            "DISABLE to `cart`",
        ),
        (
            "spec.subsets[v1].trafficPolicy.tls.mode",
            "SIMPLE to `cart`",
        ),
        ("spec.trafficPolicy.tls.mode", "MUTUAL to `db.example.com`"),
    ] {
        assert_listed(&migration, Outcome::LeftOut, field, text);
    }
    assert_listed(&migration, Outcome::Note, "", "load balancing");
}

#[test]
fn a_rule_without_tls_leaves_nothing_out() {
    let migration = run("
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}]}
");
    assert_nothing_left_out(&migration);
}
