//! What a node gets.

use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::*;
use crate::cert::IssuedChain;

fn validity(elements: &[String]) -> Duration {
    let chain = IssuedChain::from_pem(elements).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.leaf).unwrap();
    let left = leaf.validity().not_after.to_datetime() - OffsetDateTime::now_utc();
    left.unsigned_abs()
}

#[tokio::test]
async fn a_node_gets_the_certificate_of_a_workload_on_it() {
    let rig = Rig::start().await;
    let elements = rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();
    assert_eq!(elements.len(), 2, "leaf and root: {elements:?}");
    let chain = IssuedChain::from_pem(&elements).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    let expected = cart().to_string();
    assert_eq!(names.general_names, [GeneralName::URI(&expected)]);
    assert_eq!(rig.metric("ztun_ca_issued_total"), 1);
    assert_eq!(rig.metric("ztun_ca_request_duration_seconds_count"), 1);
}

#[tokio::test]
async fn every_certificate_is_in_the_issue_log() {
    let rig = Rig::start().await;
    let elements = rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();
    let chain = IssuedChain::from_pem(&elements).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.leaf).unwrap();
    let [line] = &rig.issued()[..] else {
        panic!("{:?}", rig.issued());
    };
    assert_eq!(line["serial"], format!("{:x}", leaf.serial));
    assert_eq!(line["identity"], cart().to_string());
    assert_eq!(line["node"], "a");
    let peer: SocketAddr = line["peer"].as_str().unwrap().parse().unwrap();
    assert!(peer.ip().is_loopback());
    let not_after = leaf.validity().not_after.to_datetime();
    let logged = line["notAfter"].as_str().unwrap();
    let logged = OffsetDateTime::parse(logged, &time::format_description::well_known::Rfc3339);
    assert_eq!(logged.unwrap(), not_after);
}

#[tokio::test]
async fn a_lifetime_is_granted_up_to_the_longest() {
    let rig = Rig::start().await;
    let hour = Duration::from_hours(1);
    let day = Duration::from_hours(24);
    // Asked for, in seconds, and the bounds of what is granted.
    for (seconds, expected) in [
        (3600, hour),
        (0, day),
        (-1, day),
        (i64::MIN, day),
        (100 * 86_400, day),
        (i64::MAX, day),
    ] {
        let ask = Ask {
            seconds,
            ..Ask::of(&cart())
        };
        let granted = validity(&rig.ask(TOKEN_A, &ask).await.unwrap());
        let shortest = expected.checked_sub(Duration::from_mins(5)).unwrap();
        assert!(
            (shortest..=expected).contains(&granted),
            "{seconds}: {granted:?}"
        );
    }
}

#[tokio::test]
async fn a_request_of_the_curve_p_384_is_signed_too() {
    let rig = Rig::start().await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ask = Ask {
        csr: csr(&key, &[&cart().to_string()]),
        ..Ask::of(&cart())
    };
    let elements = rig.ask(TOKEN_A, &ask).await.unwrap();
    let chain = IssuedChain::from_pem(&elements).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.leaf).unwrap();
    assert_eq!(
        *leaf.public_key().subject_public_key.data,
        *key.public_key_raw()
    );
}

#[tokio::test]
async fn a_workload_that_moves_is_certified_for_its_new_node_only() {
    let rig = Rig::start().await;
    let ask = Ask::of(&cart());
    rig.ask(TOKEN_A, &ask).await.unwrap();
    rig.place(&[("cart", "b"), ("other", "a")]);
    rig.ask(TOKEN_B, &ask).await.unwrap();
    let refused = rig.ask(TOKEN_A, &ask).await.unwrap_err();
    assert!(refused.message().contains("not-on-node"), "{refused}");
}

/// A signing request with URIs as its names.
pub(super) fn csr(key: &rcgen::KeyPair, uris: &[&str]) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.serialize_request(key).unwrap().pem().unwrap()
}
