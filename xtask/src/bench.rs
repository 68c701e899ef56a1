//! `cargo xtask bench`: a measurement of a release build.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    process, setup,
};

#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    name: String,
    /// Passed through to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("benchmarks make network namespaces: run `cargo xtask bench` as root");
    }
    setup::packages()?;
    let built = build::with_driver(Profile::Release, "ztun-bench")?;
    process::exit_code(
        Command::new(built.driver)
            .env("ZTUN_BIN", built.daemon)
            .arg(&args.name)
            .args(&args.args),
    )
}
