//! A CA that is told nonsense, at its start and later.
#![allow(clippy::unwrap_used)]

use std::fs;

use nix::sys::signal::Signal;
use ztun_tests::{
    ca::{self, CaPlace, TOKENS},
    wait,
};

#[test]
fn a_ca_does_not_start_with_a_garbage_token_file() {
    let place = CaPlace::new().unwrap();
    place
        .write_private("tokens", "a not-long-enough-secret\n")
        .unwrap();
    let refusal = place.refusal("ca", &[]).unwrap();
    assert!(refusal.contains("tokens:1: "), "{refusal}");
    assert!(!refusal.contains("secret"), "{refusal}");
}

#[test]
fn a_ca_does_not_start_without_a_mesh_or_with_files_that_are_no_signer() {
    let place = CaPlace::new().unwrap();
    let refusal = place
        .refusal("ca", &[("meshDirectory", "/nonexistent/mesh")])
        .unwrap();
    assert!(refusal.contains("/nonexistent/mesh"), "{refusal}");
    place.write_private("key.pem", "garbage").unwrap();
    let (key, root) = (place.path("key.pem"), place.path("root.pem"));
    fs::write(&root, "garbage").unwrap();
    let (key, root) = (key.display().to_string(), root.display().to_string());
    let refusal = place
        .refusal("ca", &[("keyFile", &key), ("rootFile", &root)])
        .unwrap();
    assert!(refusal.contains(&key), "{refusal}");
}

#[tokio::test]
async fn a_token_file_that_becomes_garbage_leaves_the_last_good_one_in_force() {
    let place = CaPlace::new().unwrap();
    let ca = place.start("ca", &[]).unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    place.write_private("tokens", "garbage\n").unwrap();
    ca.ask(&root, TOKENS[0], "cart").await.unwrap();
    assert!(
        ca.log().contains("last good version stays in force"),
        "{}",
        ca.log()
    );
    // Asks the CA to look at all files at once.
    ca.signal(Signal::SIGHUP).unwrap();
    wait::until("the problem is counted", async || {
        ca.metric("ztun_ca_problems").unwrap() == 1
    })
    .await
    .unwrap();

    let changed = format!("c {}\n", TOKENS[0]);
    place.write_private("tokens", &changed).unwrap();
    let refused = ca.ask(&root, TOKENS[0], "cart").await.unwrap_err();
    assert!(
        refused.message().contains("no workload on node c"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_mesh_that_changes_moves_what_is_signed_with_it() {
    let place = CaPlace::new().unwrap();
    let ca = place.start("ca", &[]).unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    ca.ask(&root, TOKENS[1], "cart").await.unwrap_err();
    let pods = place.path("mesh/pods.yaml");
    let moved = fs::read_to_string(&pods)
        .unwrap()
        .replace("nodeName: a", "nodeName: b");
    fs::write(&pods, moved).unwrap();
    wait::until("the pod's new node may ask", async || {
        ca.ask(&root, TOKENS[1], "cart").await.is_ok()
    })
    .await
    .unwrap();
    let refused = ca.ask(&root, TOKENS[0], "cart").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
}
