//! One boot: starts QEMU, follows what the guest says, and ends it at a deadline.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::console::{self, Message};
use crate::{
    process::say,
    test::{
        libtest::Outcome,
        progress::Progress,
        supervise::{self, End, Limits, Run},
        tally::Voice,
    },
};

/// A test binary that a guest runs, and which of its tests.
pub struct Target {
    pub name: String,
    pub tests: Vec<String>,
}

/// What came of a boot.
pub struct Report {
    /// By path.
    pub outcomes: Vec<(String, Outcome)>,
    /// How long each target ran.
    pub times: BTreeMap<String, Duration>,
    pub total: Duration,
}

impl Report {
    pub fn has_failed(&self, path: &str) -> bool {
        let failed = (path.to_owned(), Outcome::Failed);
        self.outcomes.contains(&failed)
    }
}

pub const BOOTS_AND_ENDS: &str = "boots_and_ends";

/// How much of the console explains a death.
const TAIL_LINES: usize = 30;

/// Boots, and runs the targets; the paths of their tests are `PREFIX::TARGET::TEST`, and
/// `PREFIX::boots_and_ends` stands for the guest itself.
pub fn run(
    qemu: &mut Command,
    console: &Path,
    prefix: &str,
    targets: &[Target],
    limits: Limits,
    voice: Voice,
) -> Result<Report> {
    let started = Instant::now();
    let mut guest = Guest::new(prefix, targets, voice);
    let run = supervise::run(qemu, limits, |line| {
        if let Some(message) = console::parse(line) {
            guest.hear(&message);
        }
    })?;
    let came_to_its_end = guest.done;
    let report = guest.finish(started.elapsed());
    if !came_to_its_end {
        let console = fs::read(console)
            .with_context(|| format!("cannot read the console {}", console.display()))?;
        println!(
            "---- {prefix}: the guest did not come to its end: QEMU {}; its console's last lines:\n{}\n{}",
            run.end,
            tail(&String::from_utf8_lossy(&console)),
            run.stderr.trim_end(),
        );
    }
    Ok(report)
}

/// What is known of a guest while it runs.
struct Guest<'a> {
    prefix: &'a str,
    targets: &'a [Target],
    voice: Voice,
    running: Option<Running<'a>>,
    outcomes: Vec<(String, Outcome)>,
    times: BTreeMap<String, Duration>,
    done: bool,
}

struct Running<'a> {
    target: &'a Target,
    started: Instant,
    progress: Progress,
    stdout: String,
    stderr: String,
}

impl<'a> Guest<'a> {
    fn new(prefix: &'a str, targets: &'a [Target], voice: Voice) -> Self {
        Self {
            prefix,
            targets,
            voice,
            running: None,
            outcomes: Vec::new(),
            times: BTreeMap::new(),
            done: false,
        }
    }

    fn hear(&mut self, message: &Message) {
        match message {
            Message::Ready(release) => say(format_args!("{}: {release} is up", self.prefix)),
            Message::Start(name) => self.start(name),
            Message::Out(line) => {
                if let Some(running) = &mut self.running {
                    running.progress.line(line);
                    running.stdout.extend([line, "\n"]);
                }
            }
            Message::Err(line) => {
                if let Some(running) = &mut self.running {
                    running.progress.line(line);
                    running.stderr.extend([line, "\n"]);
                }
            }
            Message::End(_, status) => self.end(End::Exited(*status)),
            Message::Done => self.done = true,
            Message::Failed(reason) => println!("---- {}: {reason}", self.prefix),
        }
    }

    fn finish(mut self, total: Duration) -> Report {
        self.end(End::Lost);
        for target in self.targets {
            if !self.times.contains_key(&target.name) {
                let prefix = format!("{}::{}", self.prefix, target.name);
                for test in &target.tests {
                    let path = format!("{prefix}::{test}");
                    self.tell(path, &Outcome::Failed);
                }
            }
        }
        let ended = if self.done {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.tell(format!("{}::{BOOTS_AND_ENDS}", self.prefix), &ended);
        Report {
            outcomes: self.outcomes,
            times: self.times,
            total,
        }
    }

    fn tell(&mut self, path: String, outcome: &Outcome) {
        self.voice.tell(&path, outcome);
        self.outcomes.push((path, outcome.clone()));
    }

    fn start(&mut self, name: &str) {
        let target = self.targets.iter().find(|target| target.name == name);
        self.running = target.map(|target| Running {
            target,
            started: Instant::now(),
            progress: Progress::new(&format!("{}::{name}", self.prefix), name, self.voice),
            stdout: String::new(),
            stderr: String::new(),
        });
    }

    fn end(&mut self, end: End) {
        let Some(running) = self.running.take() else {
            return;
        };
        let name = running.target.name.clone();
        self.times.insert(name, running.started.elapsed());
        let run = Run {
            stdout: running.stdout,
            stderr: running.stderr,
            end,
        };
        let outcomes = running.progress.finish(&running.target.tests, &run);
        self.outcomes.extend(outcomes);
    }
}

fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: Duration::from_mins(1),
        silence: Duration::from_mins(1),
        stop: None,
    };

    /// A guest that says these lines, and has two tests in one target and one in another.
    fn boot(lines: &str) -> BTreeMap<String, Outcome> {
        let directory = tempfile::tempdir().unwrap();
        let console = directory.path().join("console");
        fs::write(&console, "Kernel panic - not syncing\n").unwrap();
        let target = |name: &str, tests: &[&str]| Target {
            name: name.into(),
            tests: tests.iter().map(|test| (*test).into()).collect(),
        };
        let targets = [
            target("datapath", &["paths::a", "paths::b"]),
            target("faults", &["peers::c"]),
        ];
        let mut qemu = Command::new("printf");
        let (prefix, voice) = ("vm::6.1", Voice::Everything);
        let report = run(qemu.arg(lines), &console, prefix, &targets, LIMITS, voice).unwrap();
        report.outcomes.into_iter().collect()
    }

    fn outcomes(expected: &[(&str, Outcome)]) -> BTreeMap<String, Outcome> {
        let expected = expected.iter().cloned();
        expected
            .map(|(path, outcome)| (format!("vm::6.1::{path}"), outcome))
            .collect()
    }

    const DATAPATH: &str = "SeaBIOS\nready 6.1.0\nstart datapath\nerr SKIPPED: paths::b: no tcx\n\
        out test paths::a ... ok\nout test paths::b ... ok\nout test result: ok.\nend datapath 0\n";

    #[test]
    fn every_test_of_a_guest_that_comes_to_its_end_has_its_outcome() {
        let heard = boot(&format!(
            "{DATAPATH}start faults\nout test peers::c ... FAILED\nend faults 25856\ndone\n"
        ));
        let expected = [
            ("boots_and_ends", Outcome::Passed),
            ("datapath::paths::a", Outcome::Passed),
            ("datapath::paths::b", Outcome::Skipped("no tcx".into())),
            ("faults::peers::c", Outcome::Failed),
        ];
        assert_eq!(heard, outcomes(&expected));
    }

    #[test]
    fn what_a_guest_that_dies_has_not_run_has_failed() {
        let heard = boot("ready 6.1.0\nstart datapath\nout test paths::a ... ok\n");
        let expected = [
            ("boots_and_ends", Outcome::Failed),
            ("datapath::paths::a", Outcome::Passed),
            ("datapath::paths::b", Outcome::Failed),
            ("faults::peers::c", Outcome::Failed),
        ];
        assert_eq!(heard, outcomes(&expected));
    }

    #[test]
    fn everything_of_a_guest_that_does_not_boot_has_failed() {
        let heard = boot("SeaBIOS\n");
        assert_eq!(heard.len(), 4);
        assert!(heard.values().all(|outcome| *outcome == Outcome::Failed));
    }

    #[test]
    fn an_end_that_was_not_announced_fails_even_if_every_test_passed() {
        let heard = boot(&format!(
            "{DATAPATH}start faults\nout test peers::c ... ok\nend faults 0\n"
        ));
        assert_eq!(
            heard["vm::6.1::boots_and_ends"],
            Outcome::Failed,
            "{heard:?}"
        );
    }
}
