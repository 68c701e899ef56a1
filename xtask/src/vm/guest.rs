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
use crate::test::{
    libtest::Outcome,
    progress::Progress,
    supervise::{self, End, Limits, Run},
    tally,
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

/// How much of the console explains a death.
const TAIL_LINES: usize = 30;

/// Boots, and runs the targets; the paths of their tests are `PREFIX::TARGET::TEST`, and
/// `PREFIX::boots` stands for the boot itself.
pub fn run(
    qemu: &mut Command,
    console: &Path,
    prefix: &str,
    targets: &[Target],
    limits: Limits,
) -> Result<Report> {
    let started = Instant::now();
    let mut guest = Guest::new(prefix, targets);
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
    boots: String,
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
    fn new(prefix: &'a str, targets: &'a [Target]) -> Self {
        Self {
            prefix,
            targets,
            boots: format!("{prefix}::boots"),
            running: None,
            outcomes: Vec::new(),
            times: BTreeMap::new(),
            done: false,
        }
    }

    fn hear(&mut self, message: &Message) {
        match message {
            Message::Ready(_) => self.tell(&Outcome::Passed),
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
        if self.outcomes.is_empty() && !self.done {
            self.tell(&Outcome::Failed);
        }
        for target in self.targets {
            if !self.times.contains_key(&target.name) {
                let prefix = format!("{}::{}", self.prefix, target.name);
                for test in &target.tests {
                    let path = format!("{prefix}::{test}");
                    tally::tell(&path, &Outcome::Failed);
                    self.outcomes.push((path, Outcome::Failed));
                }
            }
        }
        Report {
            outcomes: self.outcomes,
            times: self.times,
            total,
        }
    }

    fn tell(&mut self, boots: &Outcome) {
        tally::tell(&self.boots, boots);
        self.outcomes.push((self.boots.clone(), boots.clone()));
    }

    fn start(&mut self, name: &str) {
        let target = self.targets.iter().find(|target| target.name == name);
        self.running = target.map(|target| Running {
            target,
            started: Instant::now(),
            progress: Progress::new(&format!("{}::{name}", self.prefix), name),
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
