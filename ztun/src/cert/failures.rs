//! What is told of a CA that issues nothing: to those who wait, and in the log.

use std::{fmt, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    CaError,
    clock::rfc3339,
    keeper::{Keeper, Phase, State},
};
use crate::observe::rate_limit::RateLimit;

/// Attempts for one identity that failed in a row.
#[derive(Clone, Debug)]
pub(super) struct Failures {
    pub attempts: u32,
    /// The first one's time.
    pub since: OffsetDateTime,
    pub last: CaError,
}

/// When the CA is down, every identity fails: then one line in ten seconds is written for all that
/// are in the same phase of their life.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    awaited: RateLimit,
    valid: RateLimit,
    expiring: RateLimit,
    expired: RateLimit,
}

impl Failures {
    pub(super) fn after(earlier: Option<Self>, error: CaError, now: OffsetDateTime) -> Self {
        Self {
            attempts: earlier
                .as_ref()
                .map_or(0, |it| it.attempts)
                .saturating_add(1),
            since: earlier.map_or(now, |it| it.since),
            last: error,
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempts,
            since,
            last,
        } = self;
        let since = rfc3339(*since);
        write!(
            f,
            "{attempts} attempts failed since {since}, the last one because {last}"
        )
    }
}

impl FailureLog {
    pub(super) fn write(
        &self,
        keeper: &Keeper,
        state: &State,
        now: OffsetDateTime,
        pause: Duration,
    ) {
        let Some(Failures {
            attempts,
            since,
            last: error,
        }) = &state.failures
        else {
            return;
        };
        let phase = state.phase_at(now);
        let limit = if error.is_of_every_identity() {
            self.limit(phase)
        } else {
            &keeper.log_limit
        };
        let Some(suppressed) = limit.admit(Instant::now().into_std()) else {
            return;
        };
        let (identity, reason, since) = (&keeper.identity, error.label(), rfc3339(*since));
        let expires = state.certificate.as_ref();
        let expires = expires.map_or_else(String::new, |it| rfc3339(it.not_after));
        match phase {
            Phase::Awaited => {
                tracing::warn!(%identity, reason, %error, attempts, since, ?pause, suppressed, "no certificate issued");
            }
            Phase::Valid => {
                tracing::warn!(%identity, reason, %error, attempts, since, ?pause, suppressed, expires, "certificate not renewed; the last one stays in force");
            }
            Phase::Expiring => {
                tracing::warn!(%identity, reason, %error, attempts, since, ?pause, suppressed, expires, "certificate expires soon and can't be renewed; then this identity's connections are refused");
            }
            Phase::Expired => {
                tracing::error!(%identity, reason, %error, attempts, since, ?pause, suppressed, expires, "certificate expired; this identity's connections are refused");
            }
        }
    }

    fn limit(&self, phase: Phase) -> &RateLimit {
        match phase {
            Phase::Awaited => &self.awaited,
            Phase::Valid => &self.valid,
            Phase::Expiring => &self.expiring,
            Phase::Expired => &self.expired,
        }
    }
}
