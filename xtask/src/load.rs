//! `cargo xtask load`: what the running kernel's verifier says to each kernel program.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    process, setup,
};

/// Loads each program, prints its type, its size in instructions and the verifier's verdict, and
/// unloads it: nothing is attached or pinned.
#[derive(clap::Args)]
pub struct Args {
    /// Load what a release build carries
    #[arg(long)]
    release: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("loading kernel programs needs root: run `cargo xtask load` as root");
    }
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    let daemon = build::daemon(profile, &setup::toolchain()?)?;
    process::exit_code(Command::new(daemon).arg("programs"))
}
