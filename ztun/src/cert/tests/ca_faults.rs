//! A CA that fails, over hours: who waits is told why, the last valid certificate stays, and log and
//! metrics say so.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;

use super::{
    DAY, Mood, identity,
    log::Log,
    managed::{Given, given, given_for, pass},
};
use crate::cert::{CertificateError, clock::Clock, metrics};

const HOUR: u64 = 3600;

/// The value of a metric with its labels, such as `ztun_certificates{state="valid"}`.
fn metric(given: &Given, name: &str) -> Option<i64> {
    let mut registry = Registry::default();
    metrics::register(&mut registry, &given.manager);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn failures(given: &Given, reason: &str) -> Option<i64> {
    let name = format!("ztun_certificate_failures_total{{reason=\"{reason}\"}}");
    metric(given, &name)
}

fn certificates(given: &Given, state: &str) -> Option<i64> {
    metric(given, &format!("ztun_certificates{{state=\"{state}\"}}"))
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
        error.ends_with("after 2s of waiting for the test CA, which has not answered yet"),
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
async fn a_root_that_does_not_verify_the_chain_is_refused() {
    let given = given(Mood::SignsWithAnotherRoot);
    let error = given.error().await.to_string();
    assert!(error.contains("not signed by a root"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_the_ca_says_instead_of_signing_is_logged_counted_and_told() {
    let other = Mood::SignsFor(identity("b"));
    for (mood, reason, words) in [
        (Mood::Fails, "unavailable", "connection refused"),
        (Mood::Refuses, "refused", "no such pod here"),
        (Mood::Hangs, "timeout", "has not answered within 10s"),
        (Mood::SaysGarbage, "malformed", "not a certificate chain"),
        (
            Mood::SignsWithAnotherRoot,
            "unusable",
            "not signed by a root",
        ),
        (
            other,
            "unusable",
            "expected spiffe://cluster.local/ns/default/sa/a",
        ),
    ] {
        let log = Log::of_this_thread();
        let given = given(mood);
        pass(11).await;
        let line = log.line("no certificate issued").unwrap();
        for part in [
            "WARN",
            "identity=spiffe://cluster.local/ns/default/sa/a",
            &format!("reason=\"{reason}\""),
            words,
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(failures(&given, reason) >= Some(1), "{reason}");
        assert_eq!(certificates(&given, "awaited"), Some(1));
        let error = given.error().await.to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_for_what_for_how_long_and_how_often_it_was_tried() {
    let given = given(Mood::Fails);
    let since = given
        .clock
        .now()
        .format(&time::format_description::well_known::Rfc3339);
    pass(600).await;
    let error = given.error().await.to_string();
    let minute = &since.unwrap()[.."2026-01-01T00:00".len()];
    for part in [
        "after 2s of waiting for the test CA: ",
        " attempts failed since ",
        minute,
        "the last one because the test CA can't be used: connection refused",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_back_after_ten_minutes_serves_who_waits_at_once() {
    let given = given(Mood::Fails);
    pass(600).await;
    let asked = given.ca.requests();
    given.ca.becomes(Mood::Signs);
    given.serial().await;
    assert_eq!(given.ca.requests(), asked + 1);
    assert_eq!(certificates(&given, "valid"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn connections_that_wait_make_a_node_ask_every_other_second_at_most() {
    let given = given(Mood::Fails);
    pass(600).await;
    let before = given.ca.requests();
    let manager = Arc::clone(&given.manager);
    let waiting = tokio::spawn(async move {
        loop {
            drop(manager.certificate(&identity("a")).await);
        }
    });
    pass(60).await;
    waiting.abort();
    let asked = given.ca.requests() - before;
    assert!((20..=31).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_down_for_hours_is_warned_of_well_before_expiry() {
    let log = Log::of_this_thread();
    let given = given_for(Mood::Signs, DAY);
    let first = given.serial().await;
    given.ca.becomes(Mood::Fails);

    pass(15 * HOUR).await;
    assert_eq!(given.serial().await, first);
    assert_eq!(certificates(&given, "valid"), Some(1));
    let line = log
        .line("certificate not renewed; the last one stays in force")
        .unwrap();
    assert!(line.contains("expires="), "{line}");
    assert_eq!(log.line("expires soon"), None);

    pass(2 * HOUR).await;
    assert_eq!(given.serial().await, first);
    assert_eq!(certificates(&given, "valid"), Some(0));
    assert_eq!(certificates(&given, "expiring"), Some(1));
    let left = metric(&given, "ztun_certificate_expiry_seconds").unwrap();
    assert!((6 * 3600..=7 * 3600).contains(&left), "{left}");
    let line = log.line("certificate expires soon").unwrap();
    assert!(
        line.contains("WARN") && line.contains("connection refused"),
        "{line}"
    );

    pass(8 * HOUR).await;
    assert!(matches!(
        given.error().await,
        CertificateError::Expired { .. }
    ));
    assert_eq!(certificates(&given, "expired"), Some(1));
    assert!(metric(&given, "ztun_certificate_expiry_seconds").unwrap() < 0);
    let line = log.line("certificate expired").unwrap();
    assert!(line.contains("ERROR"), "{line}");

    given.ca.becomes(Mood::Signs);
    assert_ne!(given.serial().await, first);
    assert_eq!(certificates(&given, "expired"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_down_for_everybody_does_not_fill_the_log() {
    let log = Log::of_this_thread();
    let given = given(Mood::Fails);
    (0..100).for_each(|n| given.manager.retain(&identity(&format!("further-{n}"))));
    pass(3600).await;
    let (lines, failures) = (
        log.count("no certificate issued"),
        failures(&given, "unavailable").unwrap(),
    );
    assert!(failures > 2000, "{failures}");
    assert!((10..=361).contains(&lines), "{lines}");
    assert!(!log.line("suppressed=1").unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_yet_is_reported_with_both_times_and_asked_for_again() {
    let given = given(Mood::Hangs);
    let now = given.clock.now();
    given
        .ca
        .becomes(Mood::SignsAsOf(now + Duration::from_mins(30)));
    pass(15).await;
    let error = given.status().error.unwrap();
    let text = |at: time::OffsetDateTime| {
        let text = at
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap();
        text[.."2026-01-01T00".len()].to_owned()
    };
    let not_before = format!("not valid before {}", text(now + Duration::from_mins(28)));
    for part in [&*not_before, "this node's clock says ", "check both clocks"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    given.ca.becomes(Mood::Signs);
    given.serial().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_overtakes_a_thousand_identities_at_a_slow_ca() {
    let given = given(Mood::Slow(Duration::from_secs(1)));
    (0..1000).for_each(|n| given.manager.retain(&identity(&format!("idle-{n:04}"))));
    pass(3).await;
    let last = identity("idle-0999");
    given.manager.certificate(&last).await.unwrap();
    let issued = given.ca.requests();
    assert!(issued < 100, "{issued} were asked for before");

    pass(120).await;
    assert_eq!(certificates(&given, "valid"), Some(1001));
}
