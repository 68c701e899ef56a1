//! `cargo xtask bench NAME`: what a release build costs, measured from outside of it.

mod footprint;
mod handshake;
mod machine;
mod policy;
mod process;
mod report;
mod soak;
mod sockets;
mod start;
mod traffic;
mod trend;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ztun_tests::scenario::can_run_daemons;

use self::report::Report;

/// Measure a release build; the exit code is 1 when it misses its target
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
enum Bench {
    Footprint(footprint::Args),
    Handshake(handshake::Args),
    Policy(policy::Args),
    Soak(soak::Args),
    Start(start::Args),
}

fn main() -> ExitCode {
    let bench = Bench::parse();
    match run(&bench) {
        Ok(report) => report.conclude(),
        Err(error) => {
            eprintln!("ztun-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> Result<Report> {
    let drives_daemons = !matches!(bench, Bench::Handshake(_) | Bench::Policy(_));
    if drives_daemons && let Err(reason) = can_run_daemons() {
        bail!("benchmarks can't run here: {reason}");
    }
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    runtime.block_on(async {
        match bench {
            Bench::Footprint(args) => footprint::run(args).await,
            Bench::Handshake(args) => handshake::run(args),
            Bench::Policy(args) => policy::run(args),
            Bench::Soak(args) => soak::run(args).await,
            Bench::Start(args) => start::run(args).await,
        }
    })
}
