//! Two guests at once, each one node of a mesh, with a cable between their network cards.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use super::{
    entry::Entry,
    guest::{self, BOOTS_AND_ENDS, Report, Target},
    kernels::{MATRIX, Wanted},
    machine::Machine,
    matrix::{LIMITS, Matrix},
    qemu::{Cable, End},
};
use crate::test::{libtest::Outcome, supervise::Limits, tally::Voice};

/// What the two are called in the tests' paths: the oldest kernel and the newest, as in a cluster that is
/// being upgraded.
pub const NAME: &str = "6.1+newest";
const KERNELS: [&str; 2] = ["6.1", "newest"];

/// QEMU makes the socket before it boots.
const SOCKET_LIMIT: Duration = Duration::from_secs(10);
const SOCKET_INTERVAL: Duration = Duration::from_millis(20);

/// The two, fetched.
pub fn entry(fetch: impl Fn(&'static Wanted) -> Entry) -> Option<Entry> {
    let find = |name| MATRIX.iter().find(|wanted| wanted.name == name);
    let [first, second] = KERNELS;
    let mut entry = fetch(find(first)?);
    entry.other = Some(Box::new(fetch(find(second)?)));
    Some(entry)
}

/// Boots both, each with its half of every test; answers what came of the tests on both.
pub fn boot(
    matrix: &Matrix,
    [first, second]: [&Entry; 2],
    prefix: &str,
    targets: &[Target],
) -> Result<Report> {
    let socket = Socket::choose();
    let cable = |end| Cable {
        socket: &socket.0,
        end,
    };
    let prefixes = [prefix.to_owned(), format!("{prefix} (node b)")];
    let [on_a, on_b] = &prefixes;
    let mut a = Machine::assemble(
        matrix,
        first,
        on_a,
        targets,
        Some(("a", cable(End::Listening))),
    )?;
    let mut b = Machine::assemble(
        matrix,
        second,
        on_b,
        targets,
        Some(("b", cable(End::Connecting))),
    )?;

    // Neither can go on without the other.
    let stop = AtomicBool::new(false);
    let limits = Limits {
        stop: Some(&stop),
        ..LIMITS
    };
    let run = |Machine { qemu, console, .. }: &mut Machine, prefix: &str, voice| {
        let report = guest::run(qemu, console, prefix, targets, limits, voice);
        let end = format!("{prefix}::{BOOTS_AND_ENDS}");
        if report
            .as_ref()
            .map_or(true, |report| report.has_failed(&end))
        {
            stop.store(true, Ordering::Release);
        }
        report
    };
    let (of_a, of_b) = thread::scope(|scope| {
        let running = scope.spawn(|| run(&mut a, on_a, Voice::Everything));
        let of_b = socket
            .wait(&stop)
            .and_then(|()| run(&mut b, on_b, Voice::Failures));
        if of_b.is_err() {
            stop.store(true, Ordering::Release);
        }
        (running.join(), of_b)
    });
    let of_a = of_a.map_err(|_| anyhow!("the thread of node a panicked"))?;
    let report = both(of_a?, &of_b?, [on_a, on_b]);
    a.scrap(&matrix.options)?;
    b.scrap(&matrix.options)?;
    Ok(report)
}

/// A test has passed if both of its halves have.
fn both(mut a: Report, b: &Report, [on_a, on_b]: [&str; 2]) -> Report {
    for (path, outcome) in &b.outcomes {
        let Some(rest) = path.strip_prefix(on_b) else {
            continue;
        };
        if *outcome == Outcome::Passed {
            continue;
        }
        let path = format!("{on_a}{rest}");
        match a.outcomes.iter_mut().find(|(own, _)| *own == path) {
            Some((_, Outcome::Failed)) => {}
            Some((_, own)) => own.clone_from(outcome),
            None => a.outcomes.push((path, outcome.clone())),
        }
    }
    a
}

/// By which one QEMU reaches the other. Its path must be short: the kernel takes 107 bytes.
struct Socket(PathBuf);

impl Socket {
    fn choose() -> Self {
        let name = format!("ztun-vm-{}.socket", process::id());
        let socket = Self(env::temp_dir().join(name));
        socket.remove();
        socket
    }

    /// QEMU does where it ends by itself.
    fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }

    /// Waits until it is there.
    fn wait(&self, stop: &AtomicBool) -> Result<()> {
        let started = Instant::now();
        while !self.0.exists() {
            let waits = started.elapsed() < SOCKET_LIMIT && !stop.load(Ordering::Acquire);
            ensure!(waits, "QEMU of node a has not made its socket");
            thread::sleep(SOCKET_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn report(prefix: &str, outcomes: &[(&str, Outcome)]) -> Report {
        let outcomes = outcomes.iter().cloned();
        Report {
            outcomes: outcomes
                .map(|(test, outcome)| (format!("{prefix}::{test}"), outcome))
                .collect(),
            times: BTreeMap::new(),
            total: Duration::ZERO,
        }
    }

    #[test]
    fn a_test_passes_only_if_both_of_its_halves_do() {
        use Outcome::{Failed, Passed};
        let prefixes = ["vm::two", "vm::two (node b)"];
        let a = [("t::w", Passed), ("t::x", Passed), ("t::y", Failed)];
        let b = [
            ("t::w", Passed),
            ("t::x", Failed),
            ("t::y", Passed),
            ("t", Failed),
        ];
        let both = both(report(prefixes[0], &a), &report(prefixes[1], &b), prefixes);
        let expected = [
            ("t::w", Passed),
            ("t::x", Failed),
            ("t::y", Failed),
            ("t", Failed),
        ];
        assert_eq!(both.outcomes, report(prefixes[0], &expected).outcomes);
    }

    #[test]
    fn both_kernels_are_of_the_matrix() {
        let single = |wanted| Entry {
            wanted,
            kernel: Err("not fetched".into()),
            other: None,
        };
        let names = entry(single).map(|entry| (entry.wanted.name, entry.other.is_some()));
        assert_eq!(names, Some(("6.1", true)));
        assert_eq!(NAME, KERNELS.join("+"));
    }
}
