//! When to ask for the next certificate: pure, time and randomness are arguments.

use std::time::Duration;

/// First and last pause between failed attempts (the peer's values).
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
pub const BACKOFF_LAST: Duration = Duration::from_secs(150);

/// After this time a pause ends for a connection that waits. It waits a few times as long, so that
/// it is one of the first to know that the CA is back; yet what pods do can't make a node ask more often.
pub const BACKOFF_WAITED_FOR: Duration = Duration::from_secs(2);

/// How far from half life a rotation may fall, so that certificates issued together don't rotate together.
const SPREAD: f64 = 0.1;

/// How long a certificate that is valid for another `remaining` is used before it is rotated:
/// half of that, give or take a tenth. `random` is uniform in `[0, 1)`.
///
/// Counted from receipt, not from `notBefore`: that is backdated, and for short lifetimes
/// half of the whole may already be over.
pub fn rotate_after(remaining: Duration, random: f64) -> Duration {
    remaining.mul_f64(0.5 * (1.0 + SPREAD * (2.0 * random - 1.0)))
}

/// How long a certificate that is valid for another `remaining` may go without being replaced
/// before that is alarming: two thirds, when a few attempts have failed since half life.
pub fn warn_after(remaining: Duration) -> Duration {
    remaining / 3 * 2
}

/// The pause after `failures` attempts failed in a row (at least one): doubling from
/// [`BACKOFF_FIRST`] up to [`BACKOFF_LAST`], stretched by up to a half. `random` is uniform in `[0, 1)`.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let unspread_last = BACKOFF_LAST.div_f64(1.5);
    let base = BACKOFF_FIRST
        .saturating_mul(1 << doublings)
        .min(unspread_last);
    base.mul_f64(1.0 + 0.5 * random)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_jitter_a_day_rotates_after_twelve_hours() {
        let day = Duration::from_hours(24);
        assert_eq!(rotate_after(day, 0.5), day / 2);
    }

    #[test]
    fn backoff_doubles_from_the_first_pause() {
        let pauses: Vec<_> = (1..=4).map(|n| backoff(n, 0.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000]);
    }

    #[test]
    fn two_draws_give_two_rotation_times() {
        let day = Duration::from_hours(24);
        assert!(rotate_after(day, 0.1) < rotate_after(day, 0.9));
        assert!(backoff(30, 0.1) < backoff(30, 0.9));
    }

    proptest! {
        #[test]
        fn rotation_falls_within_a_tenth_of_half_life(seconds in 1_u32..400_000_000, random in 0.0..1.0_f64) {
            let remaining = f64::from(seconds);
            let after = rotate_after(Duration::from_secs(seconds.into()), random).as_secs_f64();
            prop_assert!(after >= remaining * 0.449_999 && after <= remaining * 0.550_001);
        }

        #[test]
        fn rotation_is_tried_well_before_it_is_alarming(seconds in 60_u32..400_000_000, random in 0.0..1.0_f64) {
            let remaining = Duration::from_secs(seconds.into());
            let ample = remaining / 10;
            prop_assert!(rotate_after(remaining, random) + ample < warn_after(remaining));
            prop_assert!(warn_after(remaining) + ample < remaining);
        }

        #[test]
        fn backoff_stays_within_its_bounds(failures: u32, random in 0.0..1.0_f64) {
            let pause = backoff(failures, random);
            prop_assert!((BACKOFF_FIRST..=BACKOFF_LAST).contains(&pause), "{pause:?}");
        }

        #[test]
        fn more_failures_never_shorten_the_pause(failures in 1_u32..40, random in 0.0..1.0_f64) {
            prop_assert!(backoff(failures, random) <= backoff(failures + 1, random));
        }
    }
}
