//! The matrix: which kernel runs which tests, two guests at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use super::{
    archive,
    entry::Entry,
    guest::{self, BOOTS_AND_ENDS, Report, Target},
    image::Build,
    kernels::{MATRIX, Scope, Wanted},
    machine::Machine,
    pair,
    qemu::Qemu,
    table,
};
use crate::{
    cargo::Workspace,
    setup::{Toolchain, cache::Cache},
    test::{
        libtest::{self, Outcome},
        supervise::Limits,
        tally::{self, Voice},
    },
};

/// What guests leave out, each for a reason that the documentation gives (docs/kernels.md).
const LEFT_OUT: [&str; 19] = [
    // They drive real servers and clients, and a guest has no programs but ours.
    "interop::ca_api::",
    "interop::envoy::",
    "interop::openssl::",
    "interop::pod_end::del_leaves_no_link_program_map_or_listener_of_the_pod",
    "scenarios::bookinfo::",
    "scenarios::couchdb_rbac::",
    "scenarios::foo_bar_legacy::",
    "scenarios::fruits_catalog::",
    "scenarios::metrics::",
    "scenarios::servers::",
    "scenarios::wordpress::",
    "harness::network::programs_in_a_pod_have_its_addresses_and_its_cgroup",
    // They name a CA by its host's name, and a guest can't resolve names.
    "faults::certificate_authority::",
    "interop::ca_node::",
    // Emulated, these take minutes: they are about volume, which the kernel's release changes little.
    "datapath::load::a_hundred_megabytes_arrive_intact_both_ways_on_the_same_node",
    "datapath::load::a_hundred_megabytes_arrive_intact_both_ways_on_another_node",
    "datapath::load::a_thousand_connections_at_once_work",
    // Two daemons at a time, and more connections a second than an emulated guest has buffers for.
    "faults::upgrade::",
    // Ends a process of another run: a guest runs one at a time.
    "harness::cleanup::",
];

/// What a kernel has no part in: one kernel, the oldest, runs it for all.
const USER_SPACE: [&str; 14] = [
    "faults::ca_input::",
    "faults::ca_storage::",
    "faults::configuration::",
    "faults::hanging::",
    "faults::mesh_directory::",
    "faults::peers::",
    "faults::readiness::",
    "scenarios::admin::",
    "scenarios::answers::",
    "scenarios::audit::",
    "scenarios::authorization_policy::",
    "scenarios::migrate::",
    "scenarios::status::",
    "scenarios::verify::",
];

/// What runs without IPv6 too: capture, the last hop, STRICT, and a daemon that dies.
const WITHOUT_IPV6: [&str; 7] = [
    "coexistence::settings::",
    "datapath::addresses::",
    "datapath::ends::",
    "datapath::paths::",
    "faults::daemon::",
    "scenarios::encryption::",
    "scenarios::mtls::",
];

/// Where each guest's path begins, in `cargo xtask test`.
const PREFIX: &str = "vm";
const AT_A_TIME: usize = 2;
pub const LIMITS: Limits = Limits {
    total: Duration::from_mins(25),
    // Longer than the harness lets one test take.
    silence: Duration::from_mins(4),
    stop: None,
};

pub struct Matrix {
    pub(super) build: Build,
    /// Each target's tests that guests run.
    catalogue: Vec<Target>,
    pub(super) qemu: Result<Qemu, String>,
    guests: Vec<Entry>,
    /// Of images and consoles.
    pub(super) directory: PathBuf,
    pub options: Options,
}

#[derive(Default)]
pub struct Options {
    /// Leaves images and consoles, and prints each guest's command.
    pub keep: bool,
    /// Breaks a kernel program, to see the tests fail.
    pub sabotage: Option<String>,
}

impl Matrix {
    /// Builds what guests run, and fetches QEMU and the kernels called so (all if none is named). What
    /// can't be fetched fails when it is to run.
    pub fn prepare(toolchain: &Toolchain, kernels: &[String]) -> Result<Self> {
        let cache = Cache::locate("vm")?.lock()?;
        let mirror = OnceLock::new();
        let mirror = || {
            mirror
                .get_or_init(|| archive::mirror().map_err(|error| format!("{error:#}")))
                .clone()
                .map_err(|reason| anyhow!(reason))
        };
        let text = |error: anyhow::Error| format!("{error:#}");
        let qemu = Qemu::provide(&cache, mirror).map_err(text);
        let fetch = |wanted: &'static Wanted| Entry {
            wanted,
            kernel: wanted.fetch(&cache, mirror).map_err(text),
            other: None,
        };
        let is_named = |name: &str| kernels.is_empty() || kernels.iter().any(|own| own == name);
        let single = MATRIX.iter().filter(|wanted| is_named(wanted.name));
        let mut guests: Vec<_> = single.map(fetch).collect();
        if is_named(pair::NAME) {
            guests.extend(pair::entry(fetch));
        }
        let build = Build::make(toolchain)?;
        let catalogue = build
            .tests
            .iter()
            .map(|binary| {
                let name = binary.crate_name.clone();
                let mut tests = libtest::list(binary)?;
                tests.retain(|test| !is_left_out(&format!("{name}::{test}")));
                Ok(Target { name, tests })
            })
            .collect::<Result<_>>()?;
        let directory = Workspace::load()?.binary("vm-guests", "")?;
        Ok(Self {
            build,
            catalogue,
            qemu,
            guests,
            directory,
            options: Options::default(),
        })
    }

    /// Every test, without the prefix of its path.
    pub fn tests(&self) -> Vec<String> {
        let of_guest = |guest: &Entry| {
            let name = guest.name();
            let tests = self.targets_of(guest).into_iter().flat_map(move |target| {
                let tests = target.tests.into_iter();
                tests.map(move |test| format!("{name}::{}::{test}", target.name))
            });
            std::iter::once(format!("{name}::{BOOTS_AND_ENDS}")).chain(tests)
        };
        self.guests.iter().flat_map(of_guest).collect()
    }

    /// Runs those of its tests, and prints the table.
    pub fn run(&self, tests: &[String]) -> Result<Vec<Row>> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        let wanted: HashSet<_> = tests.iter().map(String::as_str).collect();
        let mut guests: Vec<_> = self.guests.iter().enumerate().collect();
        // The longest first, so that none is left alone in the end.
        guests.sort_by_key(|(_, guest)| guest.wanted.scope != Scope::Everything);
        let waiting = Mutex::new(guests.into_iter());
        let rows = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    loop {
                        let next = lock(&waiting).next();
                        let Some((number, guest)) = next else {
                            return;
                        };
                        if let Some(row) = self.run_guest(guest, &wanted) {
                            lock(&rows).push((number, row));
                        }
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        rows.sort_by_key(|(number, _)| *number);
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        println!("\n{}", table::of(&rows));
        Ok(rows)
    }

    /// None where nothing of this guest is wanted.
    fn run_guest(&self, guest: &Entry, wanted: &HashSet<&str>) -> Option<Row> {
        let name = guest.name();
        let mut targets = self.targets_of(guest);
        for target in &mut targets {
            target.tests.retain(|test| {
                wanted.contains(format!("{name}::{}::{test}", target.name).as_str())
            });
        }
        targets.retain(|target| !target.tests.is_empty());
        if targets.is_empty() && !wanted.contains(format!("{name}::{BOOTS_AND_ENDS}").as_str()) {
            return None;
        }
        let prefix = format!("{PREFIX}::{name}");
        let mut report = self.boot(guest, &prefix, &targets).unwrap_or_else(|error| {
            println!("---- {prefix}: {error:#}");
            not_run(&prefix, &targets)
        });
        forbid_skips(&mut report, &prefix, guest.wanted.may_skip);
        Some(Row {
            name,
            wanted: guest.machines().map(|machine| machine.wanted).collect(),
            version: guest.version(),
            report,
        })
    }

    fn boot(&self, guest: &Entry, prefix: &str, targets: &[Target]) -> Result<Report> {
        if let Some(other) = &guest.other {
            return pair::boot(self, [guest, other], prefix, targets);
        }
        let mut machine = Machine::assemble(self, guest, prefix, targets, None)?;
        let Machine { qemu, console, .. } = &mut machine;
        let report = guest::run(qemu, console, prefix, targets, LIMITS, Voice::Everything)?;
        machine.scrap(&self.options)?;
        Ok(report)
    }

    /// What this guest runs.
    fn targets_of(&self, guest: &Entry) -> Vec<Target> {
        let targets = self.catalogue.iter().map(|target| {
            let mut tests = target.tests.clone();
            tests.retain(|test| {
                guest.runs(&target.name)
                    && is_in_scope(guest.wanted.scope, &format!("{}::{test}", target.name))
            });
            Target {
                name: target.name.clone(),
                tests,
            }
        });
        targets.filter(|target| !target.tests.is_empty()).collect()
    }
}

/// What came of a guest, or of two.
pub struct Row {
    pub name: &'static str,
    pub wanted: Vec<&'static Wanted>,
    pub version: Option<String>,
    pub report: Report,
}

impl Row {
    /// The targets that it was to run.
    pub fn targets(&self) -> BTreeSet<&str> {
        let paths = self.report.outcomes.iter().map(|(path, _)| path.as_str());
        paths
            .filter_map(|path| path.split("::").nth(2))
            .filter(|target| *target != BOOTS_AND_ENDS)
            .collect()
    }
}

/// Each test's outcome by its path. Skips that are left are none of this machine's: the kernel lacks what
/// they test, the table says so, and they count for nothing.
pub fn outcomes(rows: Vec<Row>) -> impl Iterator<Item = (String, Outcome)> {
    rows.into_iter()
        .flat_map(|row| row.report.outcomes)
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Skipped(_)))
}

/// A guest has what it needs: a test that skips there fails, unless the kernel is known to lack what
/// it is about.
fn forbid_skips(report: &mut Report, prefix: &str, may_skip: &[&str]) {
    for (path, outcome) in &mut report.outcomes {
        let test = path
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix("::"));
        let may = test.is_some_and(|test| may_skip.iter().any(|start| test.starts_with(start)));
        if let Outcome::Skipped(reason) = outcome
            && !may
        {
            println!("---- {path}: this kernel must not skip it: {reason}");
            *outcome = Outcome::Failed;
        }
    }
}

/// The report of a guest that was not even started.
fn not_run(prefix: &str, targets: &[Target]) -> Report {
    let tests = targets.iter().flat_map(|target| {
        let tests = target.tests.iter();
        tests.map(|test| format!("{prefix}::{}::{test}", target.name))
    });
    let paths = std::iter::once(format!("{prefix}::{BOOTS_AND_ENDS}")).chain(tests);
    let outcomes = paths.map(|path| {
        tally::tell(&path, &Outcome::Failed);
        (path, Outcome::Failed)
    });
    Report {
        outcomes: outcomes.collect(),
        times: BTreeMap::new(),
        total: Duration::ZERO,
    }
}

fn is_left_out(test: &str) -> bool {
    LEFT_OUT.iter().any(|prefix| test.starts_with(prefix))
}

fn is_in_scope(scope: Scope, test: &str) -> bool {
    let is_one_of = |prefixes: &[&str]| prefixes.iter().any(|prefix| test.starts_with(prefix));
    match scope {
        Scope::Everything => true,
        Scope::Kernel => !is_one_of(&USER_SPACE),
        Scope::WithoutIpv6 => is_one_of(&WITHOUT_IPV6),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_kernel_is_known_to_lack_may_skip() {
        let skipped = || Outcome::Skipped("needs tcx".to_owned());
        let mut report = Report {
            outcomes: vec![
                ("vm::6.1::coexistence::programs::tcx".to_owned(), skipped()),
                ("vm::6.1::datapath::paths::a".to_owned(), skipped()),
                ("vm::6.1::datapath::paths::b".to_owned(), Outcome::Passed),
            ],
            times: BTreeMap::new(),
            total: Duration::ZERO,
        };
        forbid_skips(&mut report, "vm::6.1", &["coexistence::programs::"]);
        let outcomes: Vec<_> = report
            .outcomes
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect();
        assert_eq!(outcomes, [skipped(), Outcome::Failed, Outcome::Passed]);
    }

    #[test]
    fn what_guests_leave_out_is_found_by_its_path() {
        assert!(is_left_out("scenarios::servers::nginx"));
        assert!(!is_left_out("scenarios::mtls::strict"));
    }

    #[test]
    fn what_is_about_user_space_runs_once() {
        let configuration = "faults::configuration::a_check";
        assert!(is_in_scope(Scope::Everything, configuration));
        assert!(!is_in_scope(Scope::Kernel, configuration));
        assert!(is_in_scope(Scope::Kernel, "faults::daemon::dies"));
        assert!(is_in_scope(Scope::WithoutIpv6, "faults::daemon::dies"));
        assert!(!is_in_scope(Scope::WithoutIpv6, configuration));
        let thorough = MATRIX
            .iter()
            .filter(|wanted| wanted.scope == Scope::Everything);
        assert_eq!(thorough.count(), 1);
    }
}
