//! `cargo xtask test`: every test, in groups, with one closing line.

mod group;
pub mod libtest;
mod lint;
pub mod progress;
mod suite;
pub mod supervise;
pub mod tally;

use std::{env, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use self::{
    group::{Filter, Group},
    suite::{Settings, Suite},
    tally::{SkipPolicy, Tally},
};
use crate::{
    build::{self, Profile},
    cargo::Workspace,
    setup,
};

#[derive(clap::Args)]
#[command(after_help = "\
Groups: lint, unit, harness, datapath, scenarios, interop, faults, vm.
A test's path is GROUP::MODULE::TEST, in `unit` GROUP::PACKAGE::MODULE::TEST.
A filter that is a group's name, or begins with one and `::`, picks from that group only.")]
pub struct Args {
    /// Run only tests whose path contains one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<Filter>,
    /// Print the paths of the tests instead of running them
    #[arg(long)]
    list: bool,
    /// Fail if any test skips, as with CI=true in the environment
    #[arg(long)]
    no_skip: bool,
    /// How many tests of a binary run at the same time [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    test_threads: Option<u16>,
    /// Stop a test binary that runs longer than this
    #[arg(long, value_name = "MINUTES", default_value_t = 20)]
    deadline: u64,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let skip_policy = if args.no_skip || in_ci() {
        SkipPolicy::Forbid
    } else {
        SkipPolicy::Allow
    };
    let workspace = Workspace::load()?;
    let groups: Vec<_> = Group::ALL
        .into_iter()
        .filter(|group| group.exists(&workspace))
        .filter(|group| group::selects_from(&args.filters, *group))
        .collect();

    let prepared = prepare(&groups)?;
    let toolchain = prepared.toolchain.as_ref();
    let mut suites = Vec::new();
    for group in &groups {
        suites.extend(group.build(toolchain)?);
    }
    for suite in &mut suites {
        suite.select(|path| group::selects(&args.filters, path));
    }
    suites.retain(|suite| !suite.is_empty());
    if suites.is_empty() {
        bail!(
            "no test matches {}: `cargo xtask test --list` shows them",
            args.wanted()
        );
    }
    if args.list {
        suites
            .iter()
            .flat_map(Suite::paths)
            .for_each(|path| println!("{path}"));
        return Ok(ExitCode::SUCCESS);
    }

    let settings = Settings {
        daemon: prepared.daemon,
        envoy: prepared.envoy,
        require_all: skip_policy == SkipPolicy::Forbid,
        test_threads: args.test_threads,
        deadline: Duration::from_mins(args.deadline),
    };
    let mut tally = Tally::default();
    for suite in &suites {
        suite.run(&settings, toolchain, &mut tally)?;
    }
    Ok(tally.close(skip_policy))
}

impl Args {
    fn wanted(&self) -> String {
        let filters: Vec<_> = self.filters.iter().map(ToString::to_string).collect();
        filters.join(" or ")
    }
}

struct Prepared {
    toolchain: Option<setup::Toolchain>,
    /// Built only where a group drives it.
    daemon: Option<PathBuf>,
    /// The folder with it, where a group drives it and it can be had.
    envoy: Option<PathBuf>,
}

/// Sets up what the groups need. Where none drives the daemon, a toolchain that happens to be
/// there is used all the same, so that cargo need not build ztun once with and once without.
fn prepare(groups: &[Group]) -> Result<Prepared> {
    if !groups.iter().any(|group| group.drives_daemon()) {
        return Ok(Prepared {
            toolchain: setup::toolchain_if_present(),
            daemon: None,
            envoy: None,
        });
    }
    setup::packages()?;
    let envoy = if groups.contains(&Group::Interop) {
        setup::envoy()?
    } else {
        None
    };
    let toolchain = setup::toolchain()?;
    let daemon = build::daemon(Profile::Dev, &toolchain)?;
    Ok(Prepared {
        toolchain: Some(toolchain),
        daemon: Some(daemon),
        envoy,
    })
}

fn in_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1")
}
