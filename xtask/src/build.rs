//! `cargo xtask build`: the kernel programs and the daemon that carries them.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{cargo, process, process::say, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Build with optimisations
    #[arg(long)]
    release: bool,
}

#[derive(Clone, Copy)]
pub enum Profile {
    Dev,
    Release,
}

impl Profile {
    pub fn cargo_args(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    fn dir(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    let toolchain = setup::toolchain()?;
    let daemon = daemon(profile, &toolchain)?;
    println!("{}", daemon.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the kernel programs and the daemon, and answers where the daemon is.
pub fn daemon(profile: Profile, toolchain: &setup::Toolchain) -> Result<PathBuf> {
    say("building the kernel programs and the daemon");
    let mut command = cargo::command();
    command
        .args(["build", "--package", "ztun"])
        .args(profile.cargo_args());
    process::run(toolchain.apply(&mut command))?;
    cargo::Workspace::load()?.binary(profile.dir(), "ztun")
}

/// Builds the daemon and a program of the test package that drives it. Answers where both are.
pub fn with_driver(profile: Profile, driver: &str) -> Result<Driven> {
    let toolchain = setup::toolchain()?;
    let daemon = daemon(profile, &toolchain)?;
    say(format_args!("building {driver}"));
    let mut command = cargo::command();
    // With `ztun-pod`, which the harness looks for beside the driver.
    command
        .args(["build", "--package", "ztun-tests", "--bins"])
        .args(profile.cargo_args());
    process::run(toolchain.apply(&mut command))?;
    let driver = daemon.with_file_name(driver);
    Ok(Driven { daemon, driver })
}

pub struct Driven {
    pub daemon: PathBuf,
    pub driver: PathBuf,
}
