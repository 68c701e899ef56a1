//! Whether a figure that is sampled under steady load grows.

/// What may be noise: the larger of the two.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: u64,
    pub percent: u64,
}

/// The first third of the samples against the last, by their medians: peaks don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trend {
    pub first: u64,
    pub last: u64,
    pub allowed: u64,
}

/// Fewer samples in a third have no meaningful median.
const LEAST_IN_A_THIRD: usize = 3;

impl Trend {
    /// `None` when there are too few samples to tell.
    pub fn of(samples: &[u64], tolerance: Tolerance) -> Option<Self> {
        let third = samples.len() / 3;
        if third < LEAST_IN_A_THIRD {
            return None;
        }
        let first = median(&samples[..third])?;
        let last = median(&samples[samples.len() - third..])?;
        Some(Self {
            first,
            last,
            allowed: tolerance.absolute.max(first * tolerance.percent / 100),
        })
    }

    /// By how much the last third is above the first.
    pub fn growth(self) -> u64 {
        self.last.saturating_sub(self.first)
    }

    pub fn grows(self) -> bool {
        self.growth() > self.allowed
    }
}

/// The lower one of the two in the middle where there are two.
pub fn median<T: Copy + Ord>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        absolute: 10,
        percent: 5,
    };

    fn grows(samples: impl IntoIterator<Item = u64>) -> bool {
        let samples: Vec<_> = samples.into_iter().collect();
        Trend::of(&samples, TOLERANCE).unwrap().grows()
    }

    #[test]
    fn a_flat_line_does_not_grow() {
        assert!(!grows([500; 30]));
    }

    #[test]
    fn a_leak_grows() {
        assert!(grows((0..30).map(|at| 500 + 2 * at)));
    }

    #[test]
    fn noise_around_a_level_does_not_grow() {
        assert!(!grows((0..30).map(|at| 500 + 100 * (at % 2))));
    }

    #[test]
    fn a_late_peak_does_not_grow() {
        assert!(!grows((0..30).map(|at| if at == 28 { 9000 } else { 500 })));
    }

    #[test]
    fn a_late_step_that_stays_grows() {
        assert!(grows((0..30).map(|at| if at < 15 { 500 } else { 600 })));
    }

    #[test]
    fn what_shrinks_does_not_grow() {
        assert!(!grows((0..30).map(|at| 500 - at)));
    }

    #[test]
    fn small_figures_may_grow_by_the_absolute_tolerance() {
        let trend = Trend::of(&[4, 4, 4, 9, 9, 9, 14, 14, 14], TOLERANCE).unwrap();
        assert_eq!((trend.growth(), trend.grows()), (10, false));
        let trend = Trend::of(&[4, 4, 4, 9, 9, 9, 15, 15, 15], TOLERANCE).unwrap();
        assert_eq!((trend.growth(), trend.grows()), (11, true));
    }

    #[test]
    fn large_figures_may_grow_by_a_share() {
        let step = |last| [[1000; 10], [1000; 10], [last; 10]].concat();
        assert!(!grows(step(1050)));
        assert!(grows(step(1051)));
    }

    #[test]
    fn eight_samples_are_too_few_to_tell() {
        assert_eq!(Trend::of(&[500; 8], TOLERANCE), None);
        assert!(Trend::of(&[500; 9], TOLERANCE).is_some());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median(&[4, 1, 2, 3]), Some(2));
        assert_eq!(median::<u64>(&[]), None);
    }
}
