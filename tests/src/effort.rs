//! How often tests repeat what they repeat.
//!
//! `ZTUN_TEST_EFFORT=1000` repeats it ten times as often; where every instruction is emulated, less is set.

use std::{env, time::Duration};

use rand::{Rng as _, SeedableRng, rngs::StdRng};

const VARIABLE: &str = "ZTUN_TEST_EFFORT";
/// Repeats what a test did by chance.
const SEED: &str = "ZTUN_TEST_SEED";
const USUAL: usize = 100;

/// `usual`, times the effort in percent; at least once.
pub fn times(usual: usize) -> usize {
    scaled(usual, env::var(VARIABLE).ok().as_deref())
}

/// Moments at random, the same ones for the same seed.
pub struct Moments {
    pub seed: u64,
    random: StdRng,
}

impl Moments {
    /// From a new seed, or the one that `ZTUN_TEST_SEED` gives; a failing test must tell it.
    ///
    /// # Panics
    /// When the variable holds no number.
    pub fn new() -> Self {
        let given = env::var(SEED).ok().map(|text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{SEED} is {text:?}: expected a number"))
        });
        let seed = given.unwrap_or_else(rand::random);
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Before `end`, every moment equally likely.
    pub fn before(&mut self, end: Duration) -> Duration {
        end.mul_f64(self.random.random())
    }
}

impl Default for Moments {
    fn default() -> Self {
        Self::new()
    }
}

fn scaled(usual: usize, effort: Option<&str>) -> usize {
    let percent = effort.map_or(USUAL, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{VARIABLE} is {text:?}: expected percent, such as 10"))
    });
    (usual * percent / USUAL).max(1)
}

#[cfg(test)]
mod tests {
    use super::scaled;

    #[test]
    fn effort_is_in_percent_of_the_usual_and_never_nothing() {
        assert_eq!(scaled(1000, None), 1000);
        assert_eq!(scaled(1000, Some("10")), 100);
        assert_eq!(scaled(50, Some("400")), 200);
        assert_eq!(scaled(10, Some("1")), 1);
    }
}
