//! A CA whose disk is full, read-only, shared, or open to others.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, thread};

use nix::unistd::geteuid;
use ztun_tests::{
    ca::{self, Ca, CaPlace, TOKENS},
    scenario,
};

/// Mounts need root; says so if not.
fn may_mount(test: &str) -> bool {
    if geteuid().is_root() {
        return true;
    }
    scenario::skip(test, "needs root, for mounts");
    false
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

#[test]
fn cas_that_race_to_make_the_root_end_with_one() {
    const CAS: usize = 4;
    let place = CaPlace::new().unwrap();
    let shared = place.path("shared");
    let directory = shared.display().to_string();
    let cas: Vec<Ca> = thread::scope(|scope| {
        let starts: Vec<_> = (0..CAS)
            .map(|number| {
                let (place, directory) = (&place, &directory);
                scope.spawn(move || {
                    place.start(&format!("ca-{number}"), &[("caDirectory", directory)])
                })
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap().unwrap())
            .collect()
    });
    let files: BTreeSet<_> = fs::read_dir(&shared)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        files,
        ["root-cert.pem", "root-key.pem"].map(String::from).into()
    );
    let root = ca::roots_in(&shared).unwrap();
    for ca in &cas {
        // Trusts no other root, in TLS either.
        let chain = block_on(ca.ask(&root, TOKENS[0], "cart")).unwrap();
        assert_eq!(chain.last().unwrap().trim(), root.trim());
    }
}

#[test]
fn a_restart_and_a_kill_keep_the_root() {
    let place = CaPlace::new().unwrap();
    let ca = place.start("ca", &[]).unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    assert!(ca.terminate().unwrap().success());
    // Dropped, this one is killed.
    drop(place.start("ca", &[]).unwrap());
    let ca = place.start("ca", &[]).unwrap();
    let chain = block_on(ca.ask(&root, TOKENS[0], "cart")).unwrap();
    assert_eq!(chain.last().unwrap().trim(), root.trim());
}

#[test]
fn a_root_can_not_be_made_on_a_read_only_disk() {
    if !may_mount("a_root_can_not_be_made_on_a_read_only_disk") {
        return;
    }
    let place = CaPlace::new().unwrap();
    let disk = place.path("disk");
    let directory = disk.join("ca").display().to_string();
    let start = place.start_on_tmpfs("ca", &disk, "ro", &[("caDirectory", &directory)]);
    let error = format!("{:#}", start.err().unwrap());
    for part in [
        "can't create",
        &directory,
        "Read-only file system",
        "writable directory",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_root_can_not_be_made_on_a_full_disk() {
    if !may_mount("a_root_can_not_be_made_on_a_full_disk") {
        return;
    }
    let place = CaPlace::new().unwrap();
    let disk = place.path("disk");
    let directory = disk.join("ca").display().to_string();
    // Room for the key alone.
    let start = place.start_on_tmpfs("ca", &disk, "size=4k", &[("caDirectory", &directory)]);
    let error = format!("{:#}", start.err().unwrap());
    for part in [
        "can't create",
        &directory,
        "No space left on device",
        "free space",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn nothing_is_signed_while_the_issue_log_has_no_room() {
    if !may_mount("nothing_is_signed_while_the_issue_log_has_no_room") {
        return;
    }
    let place = CaPlace::new().unwrap();
    let disk = place.path("disk");
    let log = disk.join("issued.jsonl").display().to_string();
    let ca = place
        .start_on_tmpfs("ca", &disk, "size=16k", &[("issueLog", &log)])
        .unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    let seen_by_it =
        PathBuf::from(format!("/proc/{}/root", ca.pid())).join(disk.strip_prefix("/").unwrap());
    let filler = seen_by_it.join("filler");
    // As much of it as there is room for.
    fs::write(&filler, vec![0; 64 * 1024]).unwrap_err();

    let refused = block_on(ca.ask(&root, TOKENS[0], "cart")).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("No space left on device"),
        "{refused}"
    );
    assert_eq!(
        ca.metric("ztun_ca_refused_total{rule=\"issue-log\"}")
            .unwrap(),
        1
    );
    let (status, missing) = ca.get(ca.readiness, "/healthz/ready").unwrap();
    assert_eq!(status, 503);
    assert!(missing.contains("issue log"), "{missing}");

    fs::remove_file(&filler).unwrap();
    block_on(ca.ask(&root, TOKENS[0], "cart")).unwrap();
    let lines = fs::read_to_string(seen_by_it.join("issued.jsonl")).unwrap();
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.contains("/sa/cart"))
            .count(),
        1,
        "{lines}"
    );
    assert_eq!(ca.get(ca.readiness, "/healthz/ready").unwrap().0, 200);
}

#[test]
fn a_key_or_a_token_file_that_others_may_read_is_refused_with_what_helps() {
    let place = CaPlace::new().unwrap();
    drop(place.start("ca", &[]).unwrap());
    for file in ["ca/ca/root-key.pem", "tokens"] {
        let file = place.path(file);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = place.refusal("ca", &[]).unwrap();
        let help = format!("chmod 600 {}", file.display());
        assert!(refusal.contains(&help), "{refusal}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    place.start("ca", &[]).unwrap();
}
