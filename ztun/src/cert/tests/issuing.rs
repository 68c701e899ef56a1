//! What the embedded root signs, read with an independent parser, and what it refuses.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{DAY, TestRoot, dns, identity, trust_domain, uri};
use crate::{
    cert::{CaError, IssuedChain, key::WorkloadKey, root},
    mesh::Identity,
};

fn request(names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn sign(root: &TestRoot, identity: &Identity, csr: Vec<u8>) -> Result<IssuedChain, CaError> {
    let now = OffsetDateTime::now_utc();
    root.root().sign(identity, &csr.into(), DAY, now)
}

fn refusal(identity: &Identity, csr: Vec<u8>) -> String {
    match sign(&TestRoot::new(), identity, csr) {
        Err(CaError::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_leaf_names_exactly_the_identity_and_serves_both_roles() {
    let (test_root, a) = (TestRoot::new(), identity("a"));
    let key = WorkloadKey::generate(&a).unwrap();
    let csr = key.request(&a).unwrap();
    let issued = sign(&test_root, &a, csr.der().to_vec()).unwrap();

    let (_, leaf) = parse_x509_certificate(&issued.leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "RFC 5280 4.1.2.6: the subject is empty");
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/default/sa/a")]
    );
    assert_eq!(leaf.subject().iter().count(), 0);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    assert!(!leaf.is_ca());
    assert_eq!(leaf.public_key().subject_public_key.data, key.public_key());

    let (_, root) = parse_x509_certificate(&issued.roots[0]).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(leaf.issuer(), root.subject());
}

#[test]
fn a_leaf_is_backdated_and_lives_as_long_as_asked() {
    let (root, a, now) = (TestRoot::new(), identity("a"), OffsetDateTime::now_utc());
    let csr = request(vec![uri(&a.to_string())], |_| {});
    let issued = root.root().sign(&a, &csr.into(), DAY, now).unwrap();
    let (_, leaf) = parse_x509_certificate(&issued.leaf).unwrap();
    let validity = leaf.validity();
    assert_eq!(
        validity.not_before.timestamp(),
        now.unix_timestamp() - 2 * 60
    );
    assert_eq!(
        validity.not_after.timestamp(),
        now.unix_timestamp() + 86_400
    );
}

#[test]
fn a_leaf_never_outlives_its_root() {
    let (root, a) = (TestRoot::new(), identity("a"));
    let csr = request(vec![uri(&a.to_string())], |_| {});
    let now = OffsetDateTime::now_utc();
    let issued = root
        .root()
        .sign(&a, &csr.into(), DAY * 365 * 20, now)
        .unwrap();
    let not_after = |der| {
        let (_, certificate) = parse_x509_certificate(der).unwrap();
        certificate.validity().not_after.timestamp()
    };
    assert_eq!(not_after(&issued.leaf), not_after(&issued.roots[0]));
}

#[test]
fn an_expired_root_signs_nothing() {
    let (root, a) = (TestRoot::new(), identity("a"));
    let csr = request(vec![uri(&a.to_string())], |_| {});
    let later = OffsetDateTime::now_utc() + DAY * 365 * 11;
    let error = root.root().sign(&a, &csr.into(), DAY, later).unwrap_err();
    assert!(error.to_string().contains("root expired at"), "{error}");
}

#[test]
fn serials_differ_and_are_positive_128_bit_numbers() {
    let (root, a) = (TestRoot::new(), identity("a"));
    let serials: std::collections::BTreeSet<Vec<u8>> = (0..20)
        .map(|_| {
            let csr = request(vec![uri(&a.to_string())], |_| {});
            let issued = sign(&root, &a, csr).unwrap();
            let (_, leaf) = parse_x509_certificate(&issued.leaf).unwrap();
            leaf.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 20);
    for serial in serials {
        assert!(serial[0] < 0x80, "negative: {serial:?}");
        assert!((8..=17).contains(&serial.len()), "{serial:?}");
    }
}

#[test]
fn a_new_root_may_sign_certificates_and_nothing_else() {
    let pem = TestRoot::new().pem;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, root) = parse_x509_certificate(&der).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(root.subject().to_string(), "O=cluster.local, CN=Root CA");
    let validity = root.validity();
    let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400;
    assert_eq!(days, 3650);
    root.verify_signature(None).unwrap();
}

#[test]
fn a_request_must_name_exactly_the_identity() {
    let a = identity("a");
    let own = || uri(&a.to_string());
    for names in [
        vec![],
        vec![uri(&identity("b").to_string())],
        vec![own(), uri(&identity("b").to_string())],
        vec![own(), own()],
        vec![own(), dns("a.default.svc")],
        vec![dns("a.default.svc")],
    ] {
        let reason = refusal(&a, request(names.clone(), |_| {}));
        assert!(
            reason.contains("exactly that identity"),
            "{names:?}: {reason}"
        );
    }
}

#[test]
fn a_request_must_prove_its_key() {
    let a = identity("a");
    let mut csr = request(vec![uri(&a.to_string())], |_| {});
    // The last byte is the signature's.
    *csr.last_mut().unwrap() ^= 1;
    assert!(refusal(&a, csr).contains("signature"));
}

#[test]
fn garbage_is_no_request() {
    assert!(refusal(&identity("a"), b"garbage".to_vec()).contains("invalid"));
}

#[test]
fn a_request_to_be_a_ca_yields_an_ordinary_leaf() {
    let a = identity("a");
    let csr = request(vec![uri(&a.to_string())], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let issued = sign(&TestRoot::new(), &a, csr).unwrap();
    let (_, leaf) = parse_x509_certificate(&issued.leaf).unwrap();
    assert!(!leaf.is_ca());
}

#[test]
fn identities_of_other_trust_domains_are_refused() {
    let foreign: Identity = "spiffe://elsewhere/ns/default/sa/a".parse().unwrap();
    let csr = request(vec![uri(&foreign.to_string())], |_| {});
    assert!(refusal(&foreign, csr).contains("cluster.local only"));
}

#[test]
fn a_chain_is_read_as_leaf_intermediates_and_several_roots() {
    let roots: Vec<TestRoot> = (0..4).map(|_| TestRoot::new()).collect();
    let pem = |i: usize| roots[i].pem.clone();
    let issued = IssuedChain::from_pem(&[pem(0), pem(1), pem(2) + &pem(3)]).unwrap();
    let der = |i: usize| CertificateDer::from_pem_slice(roots[i].pem.as_bytes()).unwrap();
    assert_eq!(issued.leaf, der(0));
    assert_eq!(issued.intermediates, [der(1)]);
    assert_eq!(issued.roots, [der(2), der(3)]);
}

#[test]
fn what_is_not_a_chain_is_refused() {
    let pem = TestRoot::new().pem;
    for elements in [vec![], vec![&*pem], vec!["", &*pem], vec![&*pem, "text"]] {
        let error = IssuedChain::from_pem(&elements).unwrap_err();
        assert!(matches!(error, CaError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_root_needs_the_certificate_of_its_key() {
    let (mine, other) = (TestRoot::new(), TestRoot::new());
    let error = root::Root::new(mine.key, &other.pem, trust_domain()).unwrap_err();
    assert!(error.to_string().contains("public key"), "{error}");
}

#[test]
fn a_certificate_that_is_not_a_cas_signs_nothing() {
    let (root, key) = (TestRoot::new(), KeyPair::generate().unwrap());
    let leaf = root.leaf(&key, vec![], |_| {});
    let error = root::Root::new(key, &leaf.pem(), trust_domain()).unwrap_err();
    assert!(error.to_string().contains("not a CA's"), "{error}");
}

#[test]
fn neither_a_key_nor_its_certificate_prints_key_material() {
    let key = WorkloadKey::generate(&identity("a")).unwrap();
    assert_eq!(format!("{key:?}"), "WorkloadKey(elided)");
    let certificate = TestRoot::new().certificate(&identity("a"));
    let printed = format!("{certificate:?}");
    assert!(printed.contains(&certificate.serial));
    assert!(
        !printed.contains("server") && !printed.contains("key"),
        "{printed}"
    );
}
