//! The wall clock, as something that tests can advance.

use std::fmt;

use rustls::pki_types::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub trait Clock: fmt::Debug + Send + Sync + 'static {
    fn now(&self) -> OffsetDateTime;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// For webpki. A time before 1970 becomes 1970, where no certificate is valid yet.
pub(super) fn unix_time(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// For comparison with what certificates say. A time that no certificate can have becomes 1970.
pub(super) fn date_time(at: UnixTime) -> OffsetDateTime {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// For messages.
pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    // Only years past 9999 have no such form.
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}
