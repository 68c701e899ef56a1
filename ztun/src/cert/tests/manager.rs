//! The manager over time: time is tokio's, paused.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DAY, Mood, TestCa, TestClock, connect::connect, identity, trust_domain};
use crate::cert::{
    CertificateError, CertificateManager, CertificateSettings, CertificateStatus, clock::Clock,
};

const WAIT: Duration = Duration::from_secs(2);
const LIFETIME: Duration = Duration::from_secs(200);

struct Given {
    clock: Arc<TestClock>,
    ca: Arc<TestCa>,
    manager: Arc<CertificateManager>,
}

/// A manager that keeps a certificate for `a`.
fn given(mood: Mood) -> Given {
    let clock = TestClock::new();
    let ca = TestCa::new(&clock, mood);
    let settings = CertificateSettings {
        lifetime: LIFETIME,
        wait: WAIT,
        ..CertificateSettings::new(trust_domain())
    };
    let manager = CertificateManager::new(Arc::clone(&ca) as _, settings, Arc::clone(&clock) as _);
    manager.retain(&identity("a"));
    Given {
        clock,
        ca,
        manager: Arc::new(manager),
    }
}

impl Given {
    async fn error(&self) -> CertificateError {
        self.manager.certificate(&identity("a")).await.unwrap_err()
    }

    async fn serial(&self) -> String {
        let certificate = self.manager.certificate(&identity("a")).await.unwrap();
        certificate.serial.clone()
    }

    fn status(&self) -> CertificateStatus {
        self.manager.status().remove(0)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_retained_identity_gets_a_certificate() {
    let given = given(Mood::Signs);
    let certificate = given.manager.certificate(&identity("a")).await.unwrap();
    assert_eq!(certificate.identity, identity("a"));
    assert_eq!(
        certificate.chain_pem.matches("BEGIN CERTIFICATE").count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn status_shows_the_certificate_and_when_it_rotates() {
    let given = given(Mood::Signs);
    let awaited = given.status();
    assert_eq!((awaited.serial, awaited.rotates_at), (None, None));

    let certificate = given.manager.certificate(&identity("a")).await.unwrap();
    let status = given.status();
    assert_eq!(status.serial.as_ref(), Some(&certificate.serial));
    assert_eq!(
        status.issuer.as_deref(),
        Some("O=cluster.local, CN=Root CA")
    );
    assert_eq!(status.not_before, Some(certificate.not_before));
    assert_eq!(status.not_after, Some(certificate.not_after));
    let until_rotation = (status.rotates_at.unwrap() - given.clock.now()).whole_seconds();
    assert!((85..=112).contains(&until_rotation), "{until_rotation}");
    assert_eq!(status.error, None);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_kept_until_half_life_and_then_replaced() {
    let given = given(Mood::Signs);
    let first = given.serial().await;
    pass(85).await;
    assert_eq!(given.serial().await, first);
    pass(30).await;
    assert_ne!(given.serial().await, first);
    assert_eq!(given.ca.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn rotation_goes_on_and_on() {
    let given = given(Mood::Signs);
    pass(86_400).await;
    // A day of half lives of 100 s, give or take a tenth.
    assert!(
        (700..=1000).contains(&given.ca.requests()),
        "{}",
        given.ca.requests()
    );
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_fails_is_named_and_asked_again_until_it_recovers() {
    let given = given(Mood::Fails);
    let error = given.error().await.to_string();
    assert!(
        error.contains("no certificate for spiffe://cluster.local/ns/default/sa/a"),
        "{error}"
    );
    assert!(
        error.contains("the test CA can't be used: connection refused"),
        "{error}"
    );
    assert!(given.status().error.unwrap().contains("connection refused"));

    given.ca.becomes(Mood::Signs);
    pass(10).await;
    given.serial().await;
    assert_eq!(given.status().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_failing_ca_is_asked_less_and_less_often() {
    let given = given(Mood::Fails);
    pass(60).await;
    let first_minute = given.ca.requests();
    assert!((5..=8).contains(&first_minute), "{first_minute}");
    pass(3600).await;
    let next_hour = given.ca.requests() - first_minute;
    assert!((20..=45).contains(&next_hour), "{next_hour}");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_hangs_is_named_in_bounded_time() {
    let given = given(Mood::Hangs);
    let error = given.error().await.to_string();
    assert!(
        error.ends_with("after 2s: the test CA has not answered yet"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_given_up_and_made_again() {
    let given = given(Mood::Hangs);
    pass(10).await;
    given.ca.becomes(Mood::Signs);
    pass(2).await;
    given.serial().await;
    assert_eq!(given.ca.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_valid_certificate_stays_in_force_while_the_ca_fails() {
    let given = given(Mood::Signs);
    let first = given.serial().await;
    given.ca.becomes(Mood::Fails);
    pass(190).await;
    assert!(given.ca.requests() > 1);
    assert_eq!(given.serial().await, first);
    assert!(given.status().error.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_never_handed_out() {
    let given = given(Mood::Signs);
    given.serial().await;
    let not_after = given.status().not_after.unwrap();
    given.ca.becomes(Mood::Fails);
    pass(201).await;
    let error = given.error().await;
    assert!(
        matches!(&error, CertificateError::Expired { at, .. } if *at == not_after),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("expired at") && text.contains("connection refused"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_host_slept_past_expiry_a_new_certificate_is_waited_for() {
    let given = given(Mood::Signs);
    let first = given.serial().await;
    given.clock.jump(DAY);
    assert_ne!(given.serial().await, first);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_another_identity_is_refused() {
    let given = given(Mood::SignsFor(identity("b")));
    let error = given.error().await.to_string();
    assert!(
        error.ends_with(
            "is of spiffe://cluster.local/ns/default/sa/b, expected spiffe://cluster.local/ns/default/sa/a"
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_another_key_is_refused() {
    let given = given(Mood::SignsAnotherKey);
    let error = given.error().await.to_string();
    assert!(error.contains("another key"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_expired_already_is_refused() {
    let given = given(Mood::SignsAsOf(
        time::OffsetDateTime::now_utc() - Duration::from_secs(1000),
    ));
    let error = given.error().await.to_string();
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_request_is_in_flight_however_many_wait() {
    let given = given(Mood::Hangs);
    given.manager.retain(&identity("a"));
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let manager = Arc::clone(&given.manager);
            tokio::spawn(async move { manager.certificate(&identity("a")).await.is_err() })
        })
        .collect();
    for waits in waiting {
        assert!(waits.await.unwrap());
    }
    assert_eq!(given.ca.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_release_ends_the_renewal() {
    let given = given(Mood::Signs);
    given.manager.retain(&identity("a"));
    given.manager.release(&identity("a"));
    given.serial().await;

    given.manager.release(&identity("a"));
    assert!(given.manager.status().is_empty());
    let error = given.error().await;
    assert!(
        matches!(error, CertificateError::NotRetained { .. }),
        "{error}"
    );
    let asked = given.ca.requests();
    pass(1000).await;
    assert_eq!(given.ca.requests(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_release_too_many_changes_nothing() {
    let given = given(Mood::Signs);
    given.manager.release(&identity("b"));
    given.serial().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_identity_that_is_released_is_told_at_once() {
    let given = given(Mood::Hangs);
    let manager = Arc::clone(&given.manager);
    let waits = tokio::spawn(async move { manager.certificate(&identity("a")).await });
    tokio::task::yield_now().await;
    given.manager.release(&identity("a"));
    let error = waits.await.unwrap().unwrap_err();
    assert!(
        matches!(error, CertificateError::NotRetained { .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn every_change_is_signalled() {
    let given = given(Mood::Signs);
    let mut changes = given.manager.changes();
    changes.changed().await.unwrap();
    assert!(given.status().serial.is_some());
    let first = given.serial().await;
    changes.changed().await.unwrap();
    assert_ne!(given.serial().await, first);
}

#[tokio::test(start_paused = true)]
async fn status_lists_every_identity_in_order() {
    let given = given(Mood::Signs);
    given.manager.retain(&identity("c"));
    given.manager.retain(&identity("b"));
    let listed: Vec<_> = given
        .manager
        .status()
        .into_iter()
        .map(|s| s.identity)
        .collect();
    assert_eq!(listed, [identity("a"), identity("b"), identity("c")]);
}

#[tokio::test(start_paused = true)]
async fn rotation_leaves_open_connections_alone_and_new_ones_use_the_new_certificate() {
    let given = given(Mood::Signs);
    let (a, b) = (identity("a"), identity("b"));
    given.manager.retain(&b);
    let manager = &given.manager;
    let pair = async || {
        let (a, server) = tokio::join!(manager.certificate(&a), manager.certificate(&b));
        (a.unwrap(), server.unwrap())
    };

    let (old_client, old_server) = pair().await;
    let old = connect(old_client.client(&b), Arc::clone(&old_server.server)).await;
    let mut old = old.ok().unwrap();
    tokio::time::sleep(Duration::from_secs(115)).await;
    let (new_client, new_server) = pair().await;
    assert_ne!(new_client.serial, old_client.serial);
    assert_ne!(new_server.serial, old_server.serial);

    old.client.write_all(b"still here").await.unwrap();
    old.client.flush().await.unwrap();
    let mut read = [0; 10];
    old.server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");

    for (client, server) in [
        (&new_client, &new_server),
        (&old_client, &new_server),
        (&new_client, &old_server),
    ] {
        let connected = connect(client.client(&b), Arc::clone(&server.server)).await;
        let connected = connected.ok().unwrap();
        let presented = connected.client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let (_, presented) = x509_parser::parse_x509_certificate(&presented).unwrap();
        assert_eq!(format!("{:x}", presented.serial), server.serial);
    }
}
