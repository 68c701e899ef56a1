//! A signing key that was brought along: roots, intermediates, mounted secrets.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::*;
use crate::cert::{EmbeddedCaError, given::SignerFiles, trust::OwnDomains};

/// Istio's names.
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

struct Secret(TempDir);

impl Secret {
    fn new(key: &str, chain: Option<&str>, roots: &str) -> Self {
        let secret = Self(TempDir::new().unwrap());
        for (file, text) in [(KEY, Some(key)), (CHAIN, chain), (ROOTS, Some(roots))] {
            if let Some(text) = text {
                fs::write(secret.path(file), text).unwrap();
            }
        }
        set_mode(&secret.path(KEY), 0o400);
        secret
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn open(&self) -> Result<Root, EmbeddedCaError> {
        let chain = self.path(CHAIN);
        let files = SignerFiles {
            key: self.path(KEY),
            chain: chain.exists().then_some(chain),
            roots: self.path(ROOTS),
        };
        Root::of_files(&files, &trust_domain())
    }

    fn refusal(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn issue(root: &Root) -> IssuedChain {
    let a = identity("a");
    let key = WorkloadKey::generate(&a).unwrap();
    let csr = key.request(&a).unwrap();
    let now = OffsetDateTime::now_utc();
    let issued = root.sign(&a, csr.der(), DAY, now).unwrap();
    // Refuses what a peer would.
    let trust = Trust::new(OwnDomains::new(trust_domain(), &[]));
    WorkloadCertificate::new(a, &key, issued.clone(), trust, KeyExchange::default(), now).unwrap();
    issued
}

/// An intermediate of `root`, with its key.
fn intermediate(root: &TestRoot, change: impl FnOnce(&mut CertificateParams)) -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = root.leaf(&key, vec![], |params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "Intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages.clear();
        change(params);
    });
    (key, certificate.pem())
}

#[test]
fn a_root_that_is_brought_along_signs() {
    let root = TestRoot::new();
    let secret = Secret::new(&root.key.serialize_pem(), None, &root.pem);
    let issued = issue(&secret.open().unwrap());
    assert!(issued.intermediates.is_empty());
}

#[test]
fn an_intermediate_signs_with_its_chain_and_without_the_root_in_it() {
    let root = TestRoot::new();
    let (key, certificate) = intermediate(&root, |_| {});
    // As Istio's secret has it: the root at the chain's end.
    let chain = format!("{certificate}{}", root.pem);
    let secret = Secret::new(&key.serialize_pem(), Some(&chain), &root.pem);
    let issued = issue(&secret.open().unwrap());
    let own = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    assert_eq!(issued.intermediates, [own]);
    assert_eq!(issued.roots.len(), 1);
}

#[test]
fn nothing_is_valid_for_longer_than_the_chain_that_signs_it() {
    let root = TestRoot::new();
    let soon = OffsetDateTime::now_utc() + Duration::from_hours(1);
    let (key, certificate) = intermediate(&root, |params| params.not_after = soon);
    let secret = Secret::new(&key.serialize_pem(), Some(&certificate), &root.pem);
    let issued = issue(&secret.open().unwrap());
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.leaf).unwrap();
    let not_after = leaf.validity().not_after.timestamp();
    assert_eq!(not_after, soon.unix_timestamp());
}

#[test]
fn replicas_of_one_secret_sign_alike() {
    let root = TestRoot::new();
    let (key, certificate) = intermediate(&root, |_| {});
    let secret = Secret::new(&key.serialize_pem(), Some(&certificate), &root.pem);
    let (one, other) = (
        issue(&secret.open().unwrap()),
        issue(&secret.open().unwrap()),
    );
    assert_eq!(one.roots, other.roots);
    assert_eq!(one.intermediates, other.intermediates);
    assert_ne!(one.leaf, other.leaf, "serials differ");
}

#[test]
fn an_rsa_key_in_pkcs_8_signs_too() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let root = root::self_signed(&key, &trust_domain(), OffsetDateTime::now_utc()).unwrap();
    let secret = Secret::new(&key.serialize_pem(), None, &root.pem());
    issue(&secret.open().unwrap());
}

#[test]
fn what_peers_would_refuse_is_refused_at_the_start() {
    let (root, other) = (TestRoot::new(), TestRoot::new());
    let (key, certificate) = intermediate(&root, |_| {});
    let key = key.serialize_pem();
    let (dead_key, dead) = intermediate(&root, |params| {
        params.not_after = OffsetDateTime::now_utc() - Duration::from_hours(1);
    });
    let (client_key, client) = intermediate(&root, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let (leaf_key, leaf) = intermediate(&root, |params| params.is_ca = IsCa::ExplicitNoCa);
    for (key, chain, roots, reason) in [
        (&key, &certificate, &other.pem, "not signed by a root"),
        (&key, &other.pem, &root.pem, "public key is not that"),
        (&dead_key.serialize_pem(), &dead, &root.pem, "expired"),
        (
            &client_key.serialize_pem(),
            &client,
            &root.pem,
            "certificate presented",
        ),
        (&leaf_key.serialize_pem(), &leaf, &root.pem, "not a CA's"),
        (&key, &"garbage".to_owned(), &root.pem, "no certificate"),
        (&key, &certificate, &"garbage".to_owned(), "no certificate"),
    ] {
        let refusal = Secret::new(key, Some(chain), roots).refusal();
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
}

#[test]
fn a_key_that_is_none_is_named() {
    let root = TestRoot::new();
    for key in ["", "garbage", &root.pem] {
        let secret = Secret::new(key, None, &root.pem);
        let refusal = secret.refusal();
        assert!(
            refusal.contains(KEY) && refusal.contains("PKCS #8"),
            "{refusal}"
        );
    }
}

#[test]
fn a_key_that_others_may_read_is_refused_with_what_helps() {
    let root = TestRoot::new();
    let secret = Secret::new(&root.key.serialize_pem(), None, &root.pem);
    for wide in [0o644, 0o640, 0o604, 0o620] {
        set_mode(&secret.path(KEY), wide);
        let refusal = secret.refusal();
        let fix = format!("`chmod 600 {}`", secret.path(KEY).display());
        assert!(refusal.contains(&fix), "{refusal}");
    }
}

/// A secret as the kubelet mounts it, on a tmpfs: `ca-key.pem` → `..data/ca-key.pem`.
fn mounted(mode: u32) -> Secret {
    let root = TestRoot::new();
    let secret = Secret(TempDir::new_in("/dev/shm").unwrap());
    fs::create_dir(secret.path("..2026_11_22")).unwrap();
    symlink("..2026_11_22", secret.path("..data")).unwrap();
    for (file, text) in [(KEY, root.key.serialize_pem()), (ROOTS, root.pem)] {
        fs::write(secret.path("..data").join(file), text).unwrap();
        symlink(Path::new("..data").join(file), secret.path(file)).unwrap();
    }
    set_mode(&secret.path("..data").join(KEY), mode);
    secret
}

#[test]
fn a_mounted_secret_is_read_through_its_links() {
    issue(&mounted(0o400).open().unwrap());
}

#[test]
fn the_group_of_a_mounted_secret_may_read_it_and_nobody_else() {
    issue(&mounted(0o440).open().unwrap());
    for wide in [0o644, 0o444, 0o460] {
        let refusal = mounted(wide).refusal();
        assert!(refusal.contains("`defaultMode: 0400`"), "{refusal}");
    }
}
