//! Files that change while the CA runs.

use super::*;
use crate::cert::{
    embedded::{ROOT_CERTIFICATE, ROOT_KEY},
    root::Root,
};

/// Puts another root into the CA's directory.
fn exchange_root(rig: &Rig) {
    let other = rig.path("other");
    Root::of_directory(&other, cart().trust_domain().clone()).unwrap();
    for file in [ROOT_KEY, ROOT_CERTIFICATE] {
        fs::rename(other.join(file), rig.path("ca").join(file)).unwrap();
    }
}

#[tokio::test]
async fn an_exchanged_root_is_in_force_without_a_restart() {
    let rig = Rig::start().await;
    let before = rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();
    assert!(!rig.signer.refresh(), "nothing has changed");
    exchange_root(&rig);
    assert!(rig.signer.refresh());
    let now = SystemClock.now();
    rig.serving.renew(&rig.signer.current(), now).unwrap();
    let after = rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();
    assert_ne!(before.last(), after.last());
}

#[tokio::test]
async fn files_that_can_not_be_used_leave_the_last_good_root_in_force() {
    let rig = Rig::start().await;
    let before = rig.signer.current();
    let certificate = rig.path("ca").join(ROOT_CERTIFICATE);
    let good = fs::read(&certificate).unwrap();
    fs::write(&certificate, "garbage").unwrap();
    assert!(!rig.signer.refresh());
    assert!(rig.signer.problem().is_some());
    assert!(Arc::ptr_eq(&before, &rig.signer.current()));
    rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();

    fs::write(&certificate, good).unwrap();
    assert!(rig.signer.refresh());
    assert_eq!(rig.signer.problem(), None);
}

#[tokio::test]
async fn a_root_that_is_lost_is_missed_and_not_made_anew() {
    let rig = Rig::start().await;
    fs::remove_dir_all(rig.path("ca")).unwrap();
    assert!(!rig.signer.refresh());
    assert!(rig.signer.problem().is_some());
    assert!(!rig.path("ca").exists());
    rig.ask(TOKEN_A, &Ask::of(&cart())).await.unwrap();
}
