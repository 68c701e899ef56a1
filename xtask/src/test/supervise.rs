//! Runs a test binary: hands its lines on as they come, both kinds, keeps them, and ends it at a
//! deadline.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::process;

/// How long lines may still come after the end: what the binary leaves behind may hold its
/// output open for ever.
const GRACE: Duration = Duration::from_millis(200);

/// How much of the output explains a death.
const TAIL_LINES: usize = 40;

pub struct Run {
    pub stdout: String,
    pub end: End,
    pub stderr: String,
}

#[derive(Debug)]
pub enum End {
    Exited(ExitStatus),
    DeadlinePassed(Duration),
    Silent(Duration),
    /// Nobody needed it any more.
    Stopped,
    /// The machine that it ran on is gone.
    Lost,
}

/// How long a binary may take.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    pub total: Duration,
    /// Without a line.
    pub silence: Duration,
    /// Ends it at once when it becomes true.
    pub stop: Option<&'a AtomicBool>,
}

enum Line {
    Out(String),
    Err(String),
}

pub fn run(command: &mut Command, limits: Limits, mut on_line: impl FnMut(&str)) -> Result<Run> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::line(command)))?;
    let lines = read_lines(&mut child);

    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut heard = started;
    let end = loop {
        match lines.recv_timeout(GRACE) {
            Ok(Line::Out(line)) => {
                heard = Instant::now();
                on_line(&line);
                push(&mut stdout, &line);
            }
            Ok(Line::Err(line)) => {
                heard = Instant::now();
                on_line(&line);
                push(&mut stderr, &line);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    break End::Exited(status);
                }
            }
            // It closed its output; it may still run.
            Err(RecvTimeoutError::Disconnected) => {
                if let Some(status) = child.try_wait()? {
                    break End::Exited(status);
                }
                thread::sleep(GRACE);
            }
        }
        let passed = if started.elapsed() >= limits.total {
            End::DeadlinePassed(limits.total)
        } else if heard.elapsed() >= limits.silence {
            End::Silent(limits.silence)
        } else if limits.stop.is_some_and(|stop| stop.load(Ordering::Acquire)) {
            End::Stopped
        } else {
            continue;
        };
        child.kill()?;
        child.wait()?;
        break passed;
    };
    Ok(Run {
        stdout,
        end,
        stderr,
    })
}

impl Run {
    /// The last lines that it printed, of both kinds.
    pub fn tail(&self) -> String {
        let tail = |text: &str| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        };
        format!("{}\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

impl End {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with {status}"),
            Self::Silent(limit) => {
                write!(f, "said nothing for {} s and was stopped", limit.as_secs())
            }
            Self::Stopped => f.write_str("was stopped with the other one"),
            Self::Lost => f.write_str("did not come to its end"),
            Self::DeadlinePassed(deadline) => {
                write!(
                    f,
                    "ran past its deadline of {} s and was stopped",
                    deadline.as_secs()
                )
            }
        }
    }
}

fn read_lines(child: &mut Child) -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone(), Line::Out);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender, Line::Err);
    }
    lines
}

fn forward(from: impl Read + Send + 'static, to: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if to.send(kind(line)).is_err() {
                return;
            }
        }
    });
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_secs(1);
    const PATIENT: Limits = Limits {
        total: LONG,
        silence: LONG,
        stop: None,
    };

    fn sh(script: &str, limits: Limits) -> (Run, Vec<String>) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        let run = run(command.args(["-c", script]), limits, |line| {
            lines.push(line.to_owned());
        });
        (run.unwrap(), lines)
    }

    #[test]
    fn lines_are_handed_on_and_kept() {
        let (run, lines) = sh("echo one; echo two; echo three >&2", PATIENT);
        assert!(lines.iter().any(|line| line == "three"), "{lines:?}");
        assert_eq!(run.stdout, "one\ntwo\n");
        assert!(run.end.is_success());
        assert!(run.tail().ends_with("three"), "{}", run.tail());
    }

    #[test]
    fn a_death_is_not_a_success() {
        let (run, _) = sh("kill -ABRT $$", PATIENT);
        assert!(!run.end.is_success());
        assert!(run.end.to_string().contains("signal"), "{}", run.end);
    }

    #[test]
    fn the_deadline_stops_it_and_keeps_what_it_printed() {
        let limits = Limits {
            total: SHORT,
            ..PATIENT
        };
        let (run, _) = sh("echo started; exec sleep 1000", limits);
        assert!(matches!(run.end, End::DeadlinePassed(_)));
        assert_eq!(run.stdout, "started\n");
    }

    #[test]
    fn silence_stops_it() {
        let limits = Limits {
            silence: SHORT,
            ..PATIENT
        };
        let (run, _) = sh("echo started; exec sleep 1000", limits);
        assert!(matches!(run.end, End::Silent(_)));
        assert_eq!(run.stdout, "started\n");
    }

    #[test]
    fn what_nobody_needs_any_more_is_stopped() {
        let stop = AtomicBool::new(true);
        let limits = Limits {
            stop: Some(&stop),
            ..PATIENT
        };
        let (run, _) = sh("exec sleep 1000", limits);
        assert!(matches!(run.end, End::Stopped));
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let (run, lines) = sh("sleep 5 & echo done", PATIENT);
        assert_eq!(lines, ["done"]);
        assert!(run.end.is_success());
    }
}
