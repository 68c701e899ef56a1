//! Follows what a test binary prints: tells each outcome as it comes, and knows them all in the end.

use std::collections::BTreeMap;

use super::{
    libtest::{self, Outcome},
    supervise::Run,
    tally::Voice,
};

pub struct Progress {
    /// What comes before a test's name in its path.
    prefix: String,
    crate_name: String,
    voice: Voice,
    told: BTreeMap<String, Outcome>,
    skips: BTreeMap<String, String>,
}

impl Progress {
    pub fn new(prefix: &str, crate_name: &str, voice: Voice) -> Self {
        Self {
            voice,
            prefix: prefix.to_owned(),
            crate_name: crate_name.to_owned(),
            told: BTreeMap::new(),
            skips: BTreeMap::new(),
        }
    }

    /// A line of either output.
    pub fn line(&mut self, line: &str) {
        if let Some((test, reason)) = libtest::parse_skip(line, &self.crate_name) {
            self.skips.insert(test.to_owned(), reason.to_owned());
        } else if let Some((test, outcome)) = libtest::parse_result(line) {
            let outcome = match self.skips.get(test) {
                Some(reason) if outcome == Outcome::Passed => Outcome::Skipped(reason.clone()),
                _ => outcome,
            };
            self.voice.tell(&path(&self.prefix, test), &outcome);
            self.told.insert(test.to_owned(), outcome);
        }
    }

    /// Tells what has not been told yet, and answers the outcome of each test by its path; also of
    /// the whole binary, where it failed and none of its tests did.
    pub fn finish(self, tests: &[String], run: &Run) -> Vec<(String, Outcome)> {
        let report = libtest::parse(&run.stdout, &self.skips);
        let (mut failed, mut unfinished) = (false, false);
        let mut outcomes = Vec::new();
        for test in tests {
            let path = path(&self.prefix, test);
            let outcome = report.outcomes.get(test).unwrap_or(&Outcome::Failed);
            // What libtest captured, such as a skip, shows after the result was told.
            if self.told.get(test) != Some(outcome) {
                self.voice.tell(&path, outcome);
            }
            failed |= *outcome == Outcome::Failed;
            unfinished |= !report.outcomes.contains_key(test);
            if *outcome == Outcome::Failed
                && let Some(output) = report.output.get(test)
            {
                println!("---- {path}\n{}", output.trim_end());
            }
            outcomes.push((path, outcome.clone()));
        }
        if unfinished || (!failed && !run.end.is_success()) {
            println!(
                "---- {}: the test binary {}; its last lines:\n{}",
                self.prefix,
                run.end,
                run.tail()
            );
        }
        if !failed && !run.end.is_success() {
            outcomes.push((self.prefix, Outcome::Failed));
        }
        outcomes
    }
}

pub fn path(prefix: &str, test: &str) -> String {
    format!("{prefix}::{test}")
}
