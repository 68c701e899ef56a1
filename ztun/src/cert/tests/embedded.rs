//! The embedded CA's directory: shared, private, whole.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Barrier},
    thread,
};

use rustls::pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;

use super::{DAY, TestRoot, identity, trust_domain};
use crate::cert::{
    EmbeddedCa, EmbeddedCaError, IssuedChain, Trust,
    embedded::{ROOT_CERTIFICATE, ROOT_KEY},
    key::WorkloadKey,
    trust::{OwnDomains, Purpose},
};

fn open(directory: &Path) -> Result<EmbeddedCa, EmbeddedCaError> {
    EmbeddedCa::open(directory, trust_domain())
}

fn issue(ca: &EmbeddedCa) -> IssuedChain {
    let a = identity("a");
    let key = WorkloadKey::generate(&a).unwrap();
    ca.sign(&a, key.request(&a).unwrap().der(), DAY).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_second_start_finds_the_first_ones_root() {
    let directory = TempDir::new().unwrap();
    let first = issue(&open(directory.path()).unwrap());
    let second = issue(&open(directory.path()).unwrap());
    assert_eq!(first.roots, second.roots);
}

#[test]
fn only_the_owner_may_read_what_is_made() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("deep/ca");
    open(&directory).unwrap();
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(ROOT_KEY)), 0o600);
    assert_eq!(mode(&directory.join(ROOT_CERTIFICATE)), 0o600);
}

#[test]
fn starts_that_race_end_with_one_root() {
    const NODES: usize = 12;
    for _ in 0..5 {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("ca");
        let start = Arc::new(Barrier::new(NODES));
        let nodes: Vec<_> = (0..NODES)
            .map(|_| {
                let (start, directory) = (Arc::clone(&start), directory.clone());
                thread::spawn(move || {
                    start.wait();
                    issue(&open(&directory).unwrap()).roots
                })
            })
            .collect();
        let roots: BTreeSet<_> = nodes
            .into_iter()
            .map(|node| node.join().unwrap()[0].to_vec())
            .collect();
        assert_eq!(roots.len(), 1);
        let files: BTreeSet<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, [ROOT_CERTIFICATE, ROOT_KEY].map(String::from).into());
    }
}

#[test]
fn a_start_that_died_between_key_and_certificate_is_completed() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let key = fs::read(directory.path().join(ROOT_KEY)).unwrap();
    fs::remove_file(directory.path().join(ROOT_CERTIFICATE)).unwrap();
    issue(&open(directory.path()).unwrap());
    assert_eq!(fs::read(directory.path().join(ROOT_KEY)).unwrap(), key);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command_that_helps() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let key = directory.path().join(ROOT_KEY);
    for wide in [0o640, 0o604, 0o660, 0o644] {
        set_mode(&key, wide);
        let error = open(directory.path()).unwrap_err().to_string();
        let fix = format!("`chmod 600 {}`", key.display());
        assert!(error.contains(&fix), "{error}");
    }
    set_mode(&key, 0o400);
    open(directory.path()).unwrap();
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let directory = TempDir::new().unwrap();
    set_mode(directory.path(), 0o777);
    let error = open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("`chmod 700 "), "{error}");
}

#[test]
fn a_certificate_that_lost_its_key_is_never_replaced() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    fs::remove_file(directory.path().join(ROOT_KEY)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(
        matches!(error, EmbeddedCaError::KeyMissing { .. }),
        "{error}"
    );
    assert!(!directory.path().join(ROOT_KEY).exists());
}

#[test]
fn files_that_are_not_a_root_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let (key, certificate) = (
        directory.path().join(ROOT_KEY),
        directory.path().join(ROOT_CERTIFICATE),
    );
    let good = fs::read(&certificate).unwrap();

    for text in ["", "garbage", &TestRoot::new().pem] {
        fs::write(&certificate, text).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(
            matches!(&error, EmbeddedCaError::Certificate { path, .. } if *path == certificate),
            "{error}"
        );
    }

    fs::write(&certificate, good).unwrap();
    fs::write(&key, "garbage").unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(
        matches!(&error, EmbeddedCaError::Key { path, .. } if *path == key),
        "{error}"
    );
}

#[test]
fn further_roots_in_the_file_are_trusted_too() {
    let directory = TempDir::new().unwrap();
    open(directory.path()).unwrap();
    let certificate = directory.path().join(ROOT_CERTIFICATE);
    let own = fs::read_to_string(&certificate).unwrap();
    fs::write(&certificate, TestRoot::new().pem + &own).unwrap();
    assert_eq!(issue(&open(directory.path()).unwrap()).roots.len(), 2);
}

#[test]
fn a_place_that_can_not_be_written_is_named() {
    let parent = TempDir::new().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file.join("ca")).unwrap_err().to_string();
    assert!(
        error.contains("can't create") && error.contains("file/ca"),
        "{error}"
    );
}

#[test]
fn a_root_that_is_exchanged_is_used_for_the_next_certificate() {
    let directory = TempDir::new().unwrap();
    let ca = open(directory.path()).unwrap();
    let first = issue(&ca);
    let (certificate, key) = (
        directory.path().join(ROOT_CERTIFICATE),
        directory.path().join(ROOT_KEY),
    );
    let next = TestRoot::new();
    let both = fs::read_to_string(&certificate).unwrap() + &next.pem;
    fs::write(&certificate, both).unwrap();
    let second = issue(&ca);
    assert_eq!(second.roots, [first.roots[0].clone(), next.der()]);
    assert!(is_signed_by(&second, &first.roots[0]));

    fs::write(&key, next.key.serialize_pem()).unwrap();
    assert!(is_signed_by(&issue(&ca), &next.der()));
}

fn is_signed_by(chain: &IssuedChain, root: &CertificateDer<'static>) -> bool {
    let trust = Trust::new(OwnDomains::new(trust_domain(), &[]));
    trust
        .answered(&identity("a"), std::slice::from_ref(root))
        .unwrap();
    let bundle = trust.bundle();
    let verified = bundle.verify(&chain.leaf, &[], Purpose::Client, UnixTime::now());
    verified.is_ok()
}

#[test]
fn files_that_go_bad_leave_the_last_good_root_in_force() {
    let directory = TempDir::new().unwrap();
    let ca = open(directory.path()).unwrap();
    let roots = issue(&ca).roots;
    fs::write(directory.path().join(ROOT_CERTIFICATE), "garbage").unwrap();
    assert_eq!(issue(&ca).roots, roots);
    fs::remove_file(directory.path().join(ROOT_KEY)).unwrap();
    assert_eq!(issue(&ca).roots, roots);
}
