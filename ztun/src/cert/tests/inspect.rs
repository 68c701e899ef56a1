//! What the manager says of certificates, its own and others.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};

use super::{Mood, TestCa, TestClock, TestRoot, identity, named, trust_domain};
use crate::cert::{
    CertificateManager, CertificateSettings,
    inspect::{Judgement, Verdict},
};

/// A node with one certificate, and its CA.
async fn node() -> (CertificateManager, Arc<TestCa>) {
    let clock = TestClock::new();
    let ca = TestCa::new(&clock, Mood::Signs);
    let settings = CertificateSettings::new(trust_domain());
    let manager = CertificateManager::new(ca.clone(), settings, clock);
    manager.retain(&identity("a"));
    manager.certificate(&identity("a")).await.unwrap();
    (manager, ca)
}

fn leaf_for(root: &TestRoot, usages: &[ExtendedKeyUsagePurpose]) -> String {
    let key = KeyPair::generate().unwrap();
    let leaf = root.leaf(&key, named("b"), |params| {
        params.extended_key_usages = usages.to_vec();
    });
    leaf.pem()
}

fn why(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Refused { why } => why,
        Verdict::Accepted { .. } => panic!("accepted"),
    }
}

#[tokio::test]
async fn a_certificate_is_judged_for_each_role_by_itself() {
    let (node, ca) = node().await;
    let pem = leaf_for(&ca.root, &[ExtendedKeyUsagePurpose::ClientAuth]);
    let judged: Judgement = node.judge(&pem).unwrap();
    assert_eq!(judged.identity, Some(identity("b")));
    assert_eq!(judged.chain[0].usages, ["TLS client"]);
    assert!(matches!(judged.as_client, Verdict::Accepted { .. }));
    assert!(
        why(&judged.as_server).contains("server authentication"),
        "{judged:?}"
    );
    assert!(!judged.is_accepted());
}

#[tokio::test]
async fn a_certificate_of_a_root_of_the_same_name_is_refused_for_its_root() {
    let (node, _) = node().await;
    let both = [
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let judged = node.judge(&leaf_for(&TestRoot::new(), &both)).unwrap();
    for verdict in [&judged.as_client, &judged.as_server] {
        assert!(why(verdict).contains("not signed by a root"), "{judged:?}");
    }
}

#[tokio::test]
async fn what_is_no_certificate_is_an_error() {
    let (node, _) = node().await;
    assert!(node.judge("").is_err());
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(node.judge(garbage).is_err());
}

#[tokio::test]
async fn each_kept_identity_is_told_with_its_chain_and_its_root() {
    let (node, ca) = node().await;
    ca.becomes(Mood::Hangs);
    node.retain(&identity("waiting"));
    let details = node.details();
    let [own, waiting] = &details[..] else {
        panic!("{details:?}");
    };
    assert_eq!(own.chain.len(), 2);
    assert_eq!(own.verified_by.as_ref(), own.chain.last());
    assert_eq!(own.refused, None);
    let judged = node.judge(own.chain_pem.as_deref().unwrap()).unwrap();
    assert!(judged.is_accepted(), "{judged:?}");

    assert_eq!(waiting.status.serial, None);
    assert!(waiting.chain.is_empty() && waiting.chain_pem.is_none());
    assert_eq!(waiting.refused, None);
}
