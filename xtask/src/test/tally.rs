//! The outcomes of a whole run, told as they come, and its closing line.

use std::{fmt, process::ExitCode};

use super::libtest::Outcome;

/// What tests that skip mean for the run.
#[derive(Clone, Copy, PartialEq)]
pub enum SkipPolicy {
    Allow,
    Forbid,
}

#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    pub fn add(&mut self, path: String, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed.push(path),
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }

    /// Prints what failed and the closing line, and answers the run's exit code.
    pub fn close(&self, skips: SkipPolicy) -> ExitCode {
        println!();
        for path in &self.failed {
            println!("failed: {path}");
        }
        let verdict = self.verdict(skips);
        if let Err(reason) = verdict {
            println!("error: {reason}");
        }
        println!("{self}");
        verdict.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
    }

    fn verdict(&self, skips: SkipPolicy) -> Result<(), &'static str> {
        if !self.failed.is_empty() {
            return Err("tests failed");
        }
        if self.skipped > 0 && skips == SkipPolicy::Forbid {
            return Err("tests skipped, and none may skip here");
        }
        if self.passed == 0 {
            return Err("no test ran");
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(
            f,
            "{passed} passed, {} failed, {skipped} skipped",
            failed.len()
        )
    }
}

/// One test's line, as it ends.
pub fn tell(path: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Passed => println!("    ok  {path}"),
        Outcome::Failed => println!("FAILED  {path}"),
        Outcome::Skipped(reason) => println!("  skip  {path}: {reason}"),
    }
}

/// Which outcomes are told as they come.
#[derive(Clone, Copy, PartialEq)]
pub enum Voice {
    Everything,
    Failures,
}

impl Voice {
    pub fn tell(self, path: &str, outcome: &Outcome) {
        if self == Self::Everything || *outcome == Outcome::Failed {
            tell(path, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: usize, skipped: usize) -> Tally {
        let mut tally = Tally::default();
        let mut add = |count, outcome: Outcome| {
            (0..count).for_each(|_| tally.add("unit::a".to_owned(), &outcome));
        };
        add(passed, Outcome::Passed);
        add(failed, Outcome::Failed);
        add(skipped, Outcome::Skipped("no root".to_owned()));
        tally
    }

    #[test]
    fn the_closing_line_counts_each_outcome() {
        assert_eq!(
            tally(12, 1, 3).to_string(),
            "12 passed, 1 failed, 3 skipped"
        );
    }

    #[test]
    fn a_run_passes_only_if_something_ran_and_nothing_failed() {
        assert!(tally(1, 0, 0).verdict(SkipPolicy::Allow).is_ok());
        assert!(tally(1, 1, 0).verdict(SkipPolicy::Allow).is_err());
        assert!(tally(0, 0, 0).verdict(SkipPolicy::Allow).is_err());
        assert!(
            tally(0, 0, 5).verdict(SkipPolicy::Allow).is_err(),
            "skipping is not running"
        );
    }

    #[test]
    fn a_skip_fails_the_run_where_none_may_skip() {
        assert!(tally(1, 0, 1).verdict(SkipPolicy::Allow).is_ok());
        assert!(tally(1, 0, 1).verdict(SkipPolicy::Forbid).is_err());
        assert!(tally(1, 0, 0).verdict(SkipPolicy::Forbid).is_ok());
    }
}
