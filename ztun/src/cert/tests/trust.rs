//! Who is believed: chains that should not be, and what changes while a node runs.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{
    CertificateError, Error, ExtendedKeyPurpose,
    pki_types::{CertificateDer, UnixTime},
};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::{DAY, TestRoot, connect::connect, identity, trust_domain, uri};
use crate::cert::{
    KeyExchange, PeerError, Trust, TrustSettings,
    clock::unix_time,
    trust::{OwnDomains, Purpose, TrustFollower, Verified},
};

const OTHER: &str = "spiffe://other.example/ns/default/sa/a";
const FORMER: &str = "spiffe://former.example/ns/default/sa/a";

/// A node's trust, whose files tests write.
struct Node {
    trust: Arc<Trust>,
    files: TempDir,
    /// Held: its files are followed until it goes.
    #[allow(dead_code)]
    follower: Option<TrustFollower>,
}

impl Node {
    /// Of a mesh with the alias `former.example`, which trusts `own`.
    fn new(own: &TestRoot) -> Self {
        let aliases = ["former.example".parse().unwrap()];
        let trust = Trust::new(OwnDomains::new(trust_domain(), &aliases));
        trust.answered(&identity("this"), &[own.der()]).unwrap();
        let files = TempDir::new().unwrap();
        fs::create_dir(files.path().join("bundles")).unwrap();
        Self {
            trust,
            files,
            follower: None,
        }
    }

    /// With these files, read once.
    fn with(own: &TestRoot, files: &[(&str, &str)]) -> Self {
        let mut node = Self::new(own);
        for (name, text) in files {
            fs::write(node.path(name), text).unwrap();
        }
        let at = |name: &str| {
            let path = node.path(name);
            path.exists().then_some(path)
        };
        let settings = TrustSettings {
            ca_roots: None,
            roots: at("roots.pem"),
            bundles: at("bundles"),
            crls: at("crl.pem"),
        };
        node.follower = Some(node.trust.follow(settings).unwrap());
        node
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<Arc<Verified>, Error> {
        self.verify_at(chain, OffsetDateTime::now_utc())
    }

    fn verify_at(
        &self,
        chain: &[CertificateDer<'static>],
        at: OffsetDateTime,
    ) -> Result<Arc<Verified>, Error> {
        let bundle = self.trust.bundle();
        bundle.verify(&chain[0], &chain[1..], Purpose::Client, unix_time(at))
    }

    /// Puts a file in place as an operator should, and waits for the next bundle.
    async fn changes(&self, change: impl FnOnce(&Path)) {
        let mut changes = self.trust.changes();
        change(self.files.path());
        tokio::time::timeout(Duration::from_secs(20), changes.changed())
            .await
            .expect("trust doesn't change")
            .unwrap();
    }
}

/// A leaf for `identity`.
fn chain(root: &TestRoot, identity: &str) -> Vec<CertificateDer<'static>> {
    numbered(root, identity, 7)
}

fn numbered(root: &TestRoot, identity: &str, serial: u64) -> Vec<CertificateDer<'static>> {
    let leaf = root.leaf(
        &KeyPair::generate().unwrap(),
        vec![uri(identity)],
        |params| {
            params.serial_number = Some(serial.into());
        },
    );
    vec![leaf.der().clone()]
}

/// An intermediate, and a leaf below it.
fn long_chain(root: &TestRoot, identity: &str, intermediate: u64) -> Vec<CertificateDer<'static>> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(intermediate.into());
    let issuer = Issuer::from_ca_cert_pem(&root.pem, root.key_copy()).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let below = TestRoot {
        key,
        pem: certificate.pem(),
    };
    let mut chain = chain(&below, identity);
    chain.push(certificate.der().clone());
    chain
}

fn crl(root: &TestRoot, serials: &[u64]) -> String {
    let now = OffsetDateTime::now_utc();
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now - DAY,
        next_update: now + DAY,
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::from_ca_cert_pem(&root.pem, root.key_copy()).unwrap();
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

fn own() -> String {
    identity("a").to_string()
}

fn unknown_issuer() -> Error {
    CertificateError::UnknownIssuer.into()
}

fn revoked() -> Error {
    CertificateError::Revoked.into()
}

#[tokio::test]
async fn a_root_proves_identities_of_its_own_trust_domain_alone() {
    // Both have the same name, and neither may stand for the other.
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let node = Node::with(&here, &[("bundles/other.example.pem", &there.pem)]);
    assert_eq!(
        node.verify(&chain(&here, &own())).unwrap().identity,
        identity("a")
    );
    assert_eq!(
        node.verify(&chain(&there, OTHER))
            .unwrap()
            .identity
            .to_string(),
        OTHER
    );
    assert_eq!(node.verify(&chain(&there, &own())), Err(unknown_issuer()));
    assert_eq!(node.verify(&chain(&here, OTHER)), Err(unknown_issuer()));
    assert_eq!(
        node.verify(&long_chain(&there, &own(), 1)),
        Err(unknown_issuer())
    );
}

#[tokio::test]
async fn a_chain_that_also_shows_the_right_root_is_not_proven_by_it() {
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let node = Node::with(&here, &[("bundles/other.example.pem", &there.pem)]);
    let mut shown = chain(&there, &own());
    shown.extend([here.der(), there.der()]);
    assert_eq!(node.verify(&shown), Err(unknown_issuer()));
}

#[tokio::test]
async fn an_alias_is_proven_by_the_meshs_own_roots() {
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let node = Node::with(&here, &[("bundles/other.example.pem", &there.pem)]);
    assert!(node.verify(&chain(&here, FORMER)).is_ok());
    assert_eq!(node.verify(&chain(&there, FORMER)), Err(unknown_issuer()));
    let stranger = node.verify(&chain(&here, "spiffe://stranger.example/ns/default/sa/a"));
    let told = PeerError::of(&stranger.unwrap_err()).unwrap().to_string();
    assert!(
        told.ends_with("(it trusts cluster.local or former.example or other.example)"),
        "{told}"
    );
}

#[tokio::test]
async fn a_server_may_answer_by_an_alias_of_the_expected_name_but_as_nobody_else() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let domains = node.trust.domains();
    assert!(domains.same(&identity("a"), &FORMER.parse().unwrap()));
    assert!(!domains.same(&identity("b"), &FORMER.parse().unwrap()));
    assert!(!domains.same(&identity("a"), &OTHER.parse().unwrap()));
}

#[tokio::test]
async fn a_revoked_leaf_is_refused_and_its_siblings_are_not() {
    let root = TestRoot::new();
    let node = Node::with(&root, &[("crl.pem", &crl(&root, &[7]))]);
    assert_eq!(node.verify(&numbered(&root, &own(), 7)), Err(revoked()));
    assert!(node.verify(&numbered(&root, &own(), 8)).is_ok());
}

#[tokio::test]
async fn a_revoked_intermediate_takes_all_below_it_along() {
    let root = TestRoot::new();
    let node = Node::with(&root, &[("crl.pem", &crl(&root, &[100]))]);
    assert_eq!(node.verify(&long_chain(&root, &own(), 100)), Err(revoked()));
    assert!(node.verify(&long_chain(&root, &own(), 101)).is_ok());
}

#[tokio::test]
async fn of_several_lists_of_one_name_each_revokes_what_its_own_key_signed() {
    let (old, new, stranger) = (TestRoot::new(), TestRoot::new(), TestRoot::new());
    let lists = [crl(&stranger, &[8]), crl(&old, &[9]), crl(&new, &[7])].concat();
    let node = Node::with(&old, &[("crl.pem", &lists), ("roots.pem", &new.pem)]);
    for (root, serial, outcome) in [
        (&old, 9, Err(revoked())),
        (&new, 7, Err(revoked())),
        (&old, 7, Ok(())),
        (&new, 9, Ok(())),
        (&old, 8, Ok(())),
    ] {
        let judged = node.verify(&numbered(root, &own(), serial)).map(|_| ());
        assert_eq!(judged, outcome, "serial {serial}");
    }
}

#[test]
fn a_root_that_expired_proves_nothing() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let eleven_years = OffsetDateTime::now_utc() + 11 * 365 * DAY;
    let key = KeyPair::generate().unwrap();
    let leaf = root.leaf(&key, vec![uri(&own())], |params| {
        params.not_after = eleven_years + DAY;
    });
    let refused = node
        .verify_at(&[leaf.der().clone()], eleven_years)
        .unwrap_err();
    assert!(
        matches!(
            PeerError::of(&refused),
            Some(PeerError::RootNotValid { .. })
        ),
        "{refused}"
    );
}

#[test]
fn a_leaf_is_no_root() {
    let root = TestRoot::new();
    let trust = Trust::new(OwnDomains::new(trust_domain(), &[]));
    let error = trust
        .answered(&identity("a"), &chain(&root, &own()))
        .unwrap_err();
    assert!(
        error.to_string().contains("not a CA's certificate"),
        "{error}"
    );
}

#[test]
fn what_is_verified_once_is_remembered_for_its_purpose_alone() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let key = KeyPair::generate().unwrap();
    let leaf = root.leaf(&key, vec![uri(&own())], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let chain = [leaf.der().clone()];
    let first = node.verify(&chain).unwrap();
    assert!(Arc::ptr_eq(&first, &node.verify(&chain).unwrap()));
    let bundle = node.trust.bundle();
    assert_eq!(bundle.remembered(), 1);
    let as_server = bundle.verify(&chain[0], &[], Purpose::Server, UnixTime::now());
    let for_clients_only = CertificateError::InvalidPurposeContext {
        required: ExtendedKeyPurpose::ServerAuth,
        presented: vec![ExtendedKeyPurpose::ClientAuth],
    };
    assert_eq!(as_server, Err(for_clients_only.into()));
    assert_eq!(bundle.remembered(), 1);
}

#[test]
fn what_is_remembered_ends_with_the_certificate() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let chain = chain(&root, &own());
    node.verify(&chain).unwrap();
    // It is valid until a day from now, and since its root began.
    let now = OffsetDateTime::now_utc();
    assert!(node.verify_at(&chain, now + DAY / 2).is_ok());
    assert!(node.verify_at(&chain, now + DAY * 2).is_err());
    assert!(node.verify_at(&chain, now - DAY / 2).is_err());
}

#[test]
fn what_is_refused_is_not_remembered() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let now = OffsetDateTime::now_utc();
    let chain = chain(&root, &own());
    assert!(node.verify_at(&chain, now + DAY * 2).is_err());
    assert_eq!(node.trust.bundle().remembered(), 0);
    assert!(node.verify(&chain).is_ok());
}

#[test]
fn what_is_remembered_is_bounded() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let leaf = chain(&root, &own()).remove(0);
    // Junk beside the chain makes another one each time.
    for junk in 0..5000_u32 {
        let chain = [leaf.clone(), junk.to_be_bytes().to_vec().into()];
        node.verify(&chain).unwrap();
        assert!(node.trust.bundle().remembered() <= 4096);
    }
}

#[test]
fn any_change_of_trust_forgets_what_was_remembered() {
    let (root, next) = (TestRoot::new(), TestRoot::new());
    let node = Node::new(&root);
    let chain = chain(&root, &own());
    node.verify(&chain).unwrap();
    node.trust
        .answered(&identity("this"), &[next.der()])
        .unwrap();
    assert_eq!(node.trust.bundle().remembered(), 0);
    assert_eq!(node.verify(&chain), Err(unknown_issuer()));
}

#[test]
fn every_identitys_latest_answer_counts() {
    let (old, new) = (TestRoot::new(), TestRoot::new());
    let node = Node::new(&old);
    let trusts = |root| node.verify(&chain(root, &own())).is_ok();
    let answer = |name, roots: &[&TestRoot]| {
        let roots: Vec<_> = roots.iter().map(|root| root.der()).collect();
        node.trust.answered(&identity(name), &roots).unwrap();
    };
    answer("b", &[&old, &new]);
    assert!(trusts(&old) && trusts(&new));
    // A replica that is behind takes nothing away.
    answer("this", &[&old]);
    assert!(trusts(&new));
    answer("b", &[&new]);
    assert!(trusts(&old));
    answer("this", &[&new]);
    assert!(!trusts(&old) && trusts(&new));
}

#[test]
fn a_node_without_identities_trusts_what_it_trusted() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    node.trust.forget(&identity("this"));
    assert!(node.verify(&chain(&root, &own())).is_ok());
}

#[test]
fn an_answer_that_says_nothing_new_changes_nothing() {
    let root = TestRoot::new();
    let node = Node::new(&root);
    let version = node.trust.bundle().version();
    node.trust.answered(&identity("b"), &[root.der()]).unwrap();
    assert_eq!(node.trust.bundle().version(), version);
}

#[tokio::test]
async fn a_bundle_may_be_a_spiffe_bundle() {
    use base64::Engine as _;
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let der = base64::engine::general_purpose::STANDARD.encode(there.der());
    let json = format!(r#"{{"keys": [{{"use": "x509-svid", "kty": "EC", "x5c": ["{der}"]}}]}}"#);
    let node = Node::with(&here, &[("bundles/other.example.json", &json)]);
    assert!(node.verify(&chain(&there, OTHER)).is_ok());
}

#[tokio::test]
async fn a_bundle_that_comes_and_goes_begins_and_ends_a_federation() {
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let node = Node::with(&here, &[]);
    let chain = chain(&there, OTHER);
    assert!(node.verify(&chain).is_err());
    let bundle = "bundles/other.example.pem";
    node.changes(|files| fs::write(files.join(bundle), &there.pem).unwrap())
        .await;
    assert!(node.verify(&chain).is_ok());
    node.changes(|files| fs::remove_file(files.join(bundle)).unwrap())
        .await;
    assert!(node.verify(&chain).is_err());
}

#[tokio::test]
async fn a_file_that_goes_bad_leaves_its_last_good_version_in_force() {
    let (here, there, next) = (TestRoot::new(), TestRoot::new(), TestRoot::new());
    let files = [
        ("bundles/other.example.pem", &*there.pem),
        ("crl.pem", &crl(&here, &[7])),
        ("roots.pem", &here.pem),
    ];
    let node = Node::with(&here, &files);
    for (name, _) in files {
        fs::write(node.path(name), "-----BEGIN NOTHING-----").unwrap();
    }
    // Read after the others, and good.
    let proof = "bundles/third.example.pem";
    node.changes(|files| fs::write(files.join(proof), &next.pem).unwrap())
        .await;
    assert!(node.verify(&chain(&there, OTHER)).is_ok());
    assert_eq!(node.verify(&numbered(&here, &own(), 7)), Err(revoked()));
    let problems = node.trust.status().problems;
    assert_eq!(problems.len(), 3, "{problems:?}");
    for problem in problems {
        let text = problem.to_string();
        assert!(
            text.ends_with("its last good version stays in force"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_bundle_that_can_not_be_one_is_left_out_and_named() {
    let (here, there) = (TestRoot::new(), TestRoot::new());
    let node = Node::with(
        &here,
        &[
            ("bundles/cluster.local.pem", &there.pem),
            ("bundles/former.example.pem", &there.pem),
            ("bundles/Other.pem", &there.pem),
            ("bundles/twice.json", "{}"),
            ("bundles/twice.pem", &there.pem),
            (
                "bundles/leaf.example.pem",
                &there.leaf(&there.key, vec![], |_| {}).pem(),
            ),
            ("bundles/notes.txt", "nothing"),
        ],
    );
    let problems = node.trust.status().problems;
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for (name, reason) in [
        ("Other.pem", "`Other` is not a trust domain"),
        ("cluster.local.pem", "own trust domain"),
        ("former.example.pem", "own trust domain"),
        ("leaf.example.pem", "certificate 1"),
        ("twice.json", "missing field `keys`"),
        ("twice.pem", "another bundle beside this one"),
    ] {
        let told = texts
            .iter()
            .any(|text| text.contains(name) && text.contains(reason));
        assert!(told, "{name}: {reason}: {texts:#?}");
    }
    assert_eq!(texts.len(), 6, "{texts:#?}");
    assert_eq!(node.verify(&chain(&there, &own())), Err(unknown_issuer()));
}

#[tokio::test]
async fn a_node_does_not_start_without_a_list_that_it_was_told_of() {
    let root = TestRoot::new();
    for text in ["", "garbage", &root.pem] {
        let node = Node::new(&root);
        fs::write(node.path("crl.pem"), text).unwrap();
        let settings = TrustSettings {
            crls: Some(node.path("crl.pem")),
            ..TrustSettings::default()
        };
        let error = node.trust.follow(settings).unwrap_err().to_string();
        assert!(error.starts_with("trust.crlFile: "), "{error}");
    }
}

#[tokio::test]
async fn the_file_of_an_embedded_ca_stands_above_its_answers() {
    let (old, new) = (TestRoot::new(), TestRoot::new());
    let node = Node::new(&old);
    fs::write(node.path("root-cert.pem"), &new.pem).unwrap();
    let settings = TrustSettings {
        ca_roots: Some(node.path("root-cert.pem")),
        ..TrustSettings::default()
    };
    let _follower = node.trust.follow(settings).unwrap();
    assert!(node.verify(&chain(&old, &own())).is_err());
    assert!(node.verify(&chain(&new, &own())).is_ok());
}

#[tokio::test]
async fn an_open_connections_peer_is_judged_by_what_is_trusted_now() {
    let (root, next) = (TestRoot::new(), TestRoot::new());
    let node = Node::new(&root);
    let (a, b) = (
        root.certificate(&identity("a")),
        root.certificate(&identity("b")),
    );
    let connected = connect(a.client(&identity("b")), b.server)
        .await
        .ok()
        .unwrap();
    let (_, server) = connected.server.get_ref();
    let peer = node.trust.peer(server, Purpose::Client).unwrap();
    assert_eq!(peer.identity, identity("a"));
    assert_eq!(node.trust.judge(&peer), Ok(()));

    node.trust
        .answered(&identity("this"), &[next.der()])
        .unwrap();
    let distrusted = node.trust.judge(&peer).unwrap_err();
    assert!(!distrusted.revoked);
    assert_eq!(distrusted.identity, identity("a"));
    node.trust
        .answered(&identity("this"), &[root.der()])
        .unwrap();
    assert_eq!(node.trust.judge(&peer), Ok(()));
}

#[tokio::test]
async fn a_revoked_client_is_told_so_by_the_alert() {
    let root = TestRoot::new();
    let node = Node::with(&root, &[("crl.pem", &crl(&root, &[7]))]);
    let key = root.odd(vec![uri(&own())], |params| {
        params.serial_number = Some(7.into());
    });
    let client = crate::cert::tls::client_config(
        key,
        root.trust(),
        [identity("b")].into(),
        KeyExchange::default(),
    );
    let server_key = root.odd(vec![uri(&identity("b").to_string())], |_| {});
    let server = crate::cert::tls::server_config(
        server_key,
        Arc::clone(&node.trust),
        KeyExchange::default(),
    )
    .unwrap();
    let refused = connect(Arc::new(client.unwrap()), Arc::new(server))
        .await
        .err()
        .unwrap();
    assert!(
        refused.server().contains("is revoked"),
        "{}",
        refused.server()
    );
    assert!(
        refused.client().contains("this node's certificate revoked"),
        "{}",
        refused.client()
    );
}
