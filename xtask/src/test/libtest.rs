//! Reading what a test binary (Rust's libtest, with `--show-output`) prints.
//!
//! A test that cannot run on this machine prints `SKIPPED: TEST: REASON` and returns, to libtest
//! that is a pass. `TEST` is its path, with or without the crate's name.

use std::{collections::BTreeMap, process::Command};

use anyhow::Result;

use crate::{cargo::TestBinary, process};

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// What is known after a binary's last line, or its death.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    pub outcomes: BTreeMap<String, Outcome>,
    /// What each test printed.
    pub output: BTreeMap<String, String>,
}

/// The tests of a binary.
pub fn list(binary: &TestBinary) -> Result<Vec<String>> {
    let list = process::output(
        Command::new(&binary.executable)
            .current_dir(&binary.package_dir)
            .args(["--list", "--format", "terse"]),
    )?;
    Ok(parse_list(&list))
}

/// The names in the answer to `--list --format terse`.
fn parse_list(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// `test NAME ... OUTCOME`, as it is printed when the test ends.
pub fn parse_result(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match outcome.split_once(", ") {
        Some(("ignored", reason)) => Outcome::Skipped(reason.to_owned()),
        _ => match outcome {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            "ignored" => Outcome::Skipped("ignored".to_owned()),
            _ => return None,
        },
    };
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some((name, outcome))
}

/// `SKIPPED: TEST: REASON`; answers the test as libtest names it.
pub fn parse_skip<'a>(line: &'a str, crate_name: &str) -> Option<(&'a str, &'a str)> {
    let (test, reason) = line.strip_prefix("SKIPPED: ")?.split_once(": ")?;
    let test = test
        .strip_prefix(crate_name)
        .and_then(|rest| rest.strip_prefix("::"))
        .unwrap_or(test);
    Some((test, reason))
}

/// What a binary printed to its standard output, and the skips that it announced anywhere.
pub fn parse(stdout: &str, skips: &BTreeMap<String, String>) -> Report {
    let mut parser = Parser::default();
    stdout.lines().for_each(|line| parser.line(line));
    let mut report = parser.report;
    for (test, reason) in skips {
        if let Some(outcome) = report.outcomes.get_mut(test)
            && *outcome == Outcome::Passed
        {
            *outcome = Outcome::Skipped(reason.clone());
        }
    }
    report
}

#[derive(Default)]
struct Parser {
    report: Report,
    section: Section,
}

#[derive(Default)]
enum Section {
    /// Results line by line, as tests end.
    #[default]
    Results,
    /// After `successes:` or `failures:`: what each such test printed, then their names.
    Details {
        outcome: Outcome,
        test: Option<String>,
    },
    /// After `test result:`.
    End,
}

impl Parser {
    fn line(&mut self, line: &str) {
        match (line, &self.section) {
            (_, Section::End) => {}
            ("successes:", _) => self.section = details(Outcome::Passed),
            ("failures:", _) => self.section = details(Outcome::Failed),
            (_, Section::Results) => self.result(line),
            (_, Section::Details { .. }) => self.detail(line),
        }
    }

    fn result(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.section = Section::End;
        } else if let Some((name, outcome)) = parse_result(line) {
            self.report.outcomes.insert(name.to_owned(), outcome);
        }
    }

    fn detail(&mut self, line: &str) {
        let Section::Details { outcome, test } = &mut self.section else {
            return;
        };
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            *test = Some(name.to_owned());
        } else if let Some(test) = test {
            let output = self.report.output.entry(test.clone()).or_default();
            output.push_str(line);
            output.push('\n');
        } else if let Some(name) = line.strip_prefix("    ") {
            // A result line that something else wrote into was not understood: this one is.
            let outcomes = &mut self.report.outcomes;
            outcomes
                .entry(name.to_owned())
                .or_insert_with(|| outcome.clone());
        } else if line.starts_with("test result: ") {
            self.section = Section::End;
        }
    }
}

fn details(outcome: Outcome) -> Section {
    Section::Details {
        outcome,
        test: None,
    }
}

#[cfg(test)]
mod tests;
