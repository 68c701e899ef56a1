//! A manager over the CA with moods, in tokio's paused time.

use std::{sync::Arc, time::Duration};

use super::{Mood, TestCa, TestClock, identity, trust_domain};
use crate::cert::{CertificateError, CertificateManager, CertificateSettings, CertificateStatus};

const WAIT: Duration = Duration::from_secs(2);
const LIFETIME: Duration = Duration::from_secs(200);

pub(super) struct Given {
    pub clock: Arc<TestClock>,
    pub ca: Arc<TestCa>,
    pub manager: Arc<CertificateManager>,
}

/// A manager that keeps a certificate for `a`.
pub(super) fn given(mood: Mood) -> Given {
    given_for(mood, LIFETIME)
}

/// As [`given`], with certificates that live this long.
pub(super) fn given_for(mood: Mood, lifetime: Duration) -> Given {
    let clock = TestClock::new();
    let ca = TestCa::new(&clock, mood);
    let settings = CertificateSettings {
        lifetime,
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
    pub(super) async fn error(&self) -> CertificateError {
        self.manager.certificate(&identity("a")).await.unwrap_err()
    }

    pub(super) async fn serial(&self) -> String {
        let certificate = self.manager.certificate(&identity("a")).await.unwrap();
        certificate.serial.clone()
    }

    pub(super) fn status(&self) -> CertificateStatus {
        self.manager.status().remove(0)
    }
}

pub(super) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
