//! Reading what a test binary (Rust's libtest, with `--show-output`) prints.
//!
//! A test that cannot run on this machine prints `SKIPPED: TEST: REASON` and returns.

use std::collections::BTreeMap;

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

/// The names in the answer to `--list --format terse`.
pub fn parse_list(list: &str) -> Vec<String> {
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

pub fn parse(output: &str) -> Report {
    let mut parser = Parser::default();
    output.lines().for_each(|line| parser.line(line));
    parser.finish()
}

#[derive(Default)]
struct Parser {
    report: Report,
    section: Section,
    /// Skips announced past libtest's capture, by another thread than the test's.
    stray_skips: Vec<(String, String)>,
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
        } else if let Some((test, reason)) = parse_skip(line) {
            self.stray_skips.push((test.to_owned(), reason.to_owned()));
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

    fn finish(self) -> Report {
        let Self {
            mut report,
            stray_skips,
            ..
        } = self;
        for (name, outcome) in &mut report.outcomes {
            if *outcome != Outcome::Passed {
                continue;
            }
            let printed = report
                .output
                .get(name)
                .into_iter()
                .flat_map(|output| output.lines());
            let own = printed
                .filter_map(parse_skip)
                .map(|(_, reason)| reason)
                .next();
            let stray = stray_skips
                .iter()
                .find(|(test, _)| is_same_test(name, test))
                .map(|(_, reason)| reason.as_str());
            if let Some(reason) = own.or(stray) {
                *outcome = Outcome::Skipped(reason.to_owned());
            }
        }
        report
    }
}

fn details(outcome: Outcome) -> Section {
    Section::Details {
        outcome,
        test: None,
    }
}

/// `SKIPPED: TEST: REASON`
fn parse_skip(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("SKIPPED: ")?.split_once(": ")
}

/// A test may name itself with or without its modules.
fn is_same_test(path: &str, test: &str) -> bool {
    path == test
        || path
            .strip_suffix(test)
            .is_some_and(|modules| modules.ends_with("::"))
}

#[cfg(test)]
mod tests;
