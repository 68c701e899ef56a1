//! `cargo xtask setup`: provides what is missing, and says what it does.
//!
//! Kernel programs need a Rust toolchain that can compile libcore for BPF, and `bpf-linker`
//! linked with an LLVM no older than that toolchain's. In this order:
//! 1. the toolchain that `ZTUN_EBPF_TOOLCHAIN` names, with the bpf-linker on the PATH;
//! 2. what an earlier set-up left in the cache;
//! 3. rustup's nightly, where it is already installed with rust-src;
//! 4. Debian's packages with a prebuilt libcore for BPF, unpacked into the cache;
//! 5. rustup's nightly and rust-src, downloaded.

pub mod apt;
mod bpf_linker;
pub mod cache;
mod debian;
mod envoy;
mod packages;
mod rustup;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use self::{cache::Cache, rustup::Nightly};
use crate::process::{self, say};

#[derive(clap::Args)]
pub struct Args {
    /// Only the toolchain for kernel programs, not the servers that tests drive
    #[arg(long)]
    toolchain_only: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !args.toolchain_only {
        packages()?;
        envoy()?;
    }
    let toolchain = toolchain()?;
    say(format_args!(
        "kernel programs are built with {}",
        toolchain.rust.display()
    ));
    Ok(ExitCode::SUCCESS)
}

pub use envoy::provide as envoy;
pub use packages::{install as install_packages, provide as packages};

/// Read by ztun/build.rs, and by us where somebody brings a toolchain of their own.
const VARIABLE: &str = "ZTUN_EBPF_TOOLCHAIN";
/// The part of the cache that toolchains are in.
const CACHE: &str = "toolchain";

/// What builds kernel programs.
#[derive(Debug, PartialEq)]
pub struct Toolchain {
    /// What `rustup run` takes: a name, or the path of a toolchain's folder.
    rust: OsString,
    /// The folder with `bpf-linker`, where it is not on the PATH.
    linker_dir: Option<PathBuf>,
}

impl Toolchain {
    fn in_folder(rust: &Path, linker_dir: PathBuf) -> Self {
        Self {
            rust: rust.into(),
            linker_dir: Some(linker_dir),
        }
    }

    fn nightly(linker_dir: Option<PathBuf>) -> Self {
        Self {
            rust: rustup::CHANNEL.into(),
            linker_dir,
        }
    }

    /// Has a cargo command build the kernel programs.
    pub fn apply<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        cargo.env(VARIABLE, &self.rust);
        if let Some(dir) = &self.linker_dir {
            process::put_on_path(cargo, dir);
        }
        cargo
    }
}

/// The toolchain for kernel programs, set up if there is none.
pub fn toolchain() -> Result<Toolchain> {
    let cache = Cache::locate(CACHE)?;
    if let Some(toolchain) = find(&cache) {
        return Ok(toolchain);
    }
    let cache = cache.lock()?;
    // Another set-up may have finished while this one waited for the lock.
    if let Some(toolchain) = find(&cache) {
        return Ok(toolchain);
    }
    if let Some(nightly) = Nightly::find() {
        return nightly
            .install(&cache)
            .context("cannot set up bpf-linker for Rust nightly");
    }
    match debian::Source::find()? {
        Some(source) => source
            .install(&cache)
            .context("cannot set up the toolchain for kernel programs from Debian's packages"),
        None => Nightly::download()
            .and_then(|nightly| nightly.install(&cache))
            .context("cannot set up the toolchain for kernel programs with rustup"),
    }
}

/// The toolchain for kernel programs, if it is there.
pub fn toolchain_if_present() -> Option<Toolchain> {
    find(&Cache::locate(CACHE).ok()?)
}

fn find(cache: &Cache) -> Option<Toolchain> {
    given(env::var_os(VARIABLE))
        .or_else(|| debian::installed(cache))
        .or_else(|| Nightly::find()?.installed(cache))
}

fn given(toolchain: Option<OsString>) -> Option<Toolchain> {
    let rust = toolchain.filter(|toolchain| !toolchain.is_empty())?;
    Some(Toolchain {
        rust,
        linker_dir: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_told_the_toolchain_and_finds_the_linker_first() {
        let toolchain = Toolchain::in_folder(Path::new("/tc"), "/linker".into());
        let mut command = Command::new("cargo");
        toolchain.apply(&mut command);
        let value = |name: &str| {
            command
                .get_envs()
                .find(|(key, _)| *key == name)
                .and_then(|(_, value)| value.map(|value| value.to_string_lossy().into_owned()))
        };
        assert_eq!(value("ZTUN_EBPF_TOOLCHAIN").unwrap(), "/tc");
        assert!(value("PATH").unwrap().starts_with("/linker:"));
    }

    #[test]
    fn a_toolchain_that_the_environment_names_is_taken_as_it_is() {
        let toolchain = given(Some("nightly-2026-05-20".into()));
        assert_eq!(toolchain.unwrap().rust, "nightly-2026-05-20");
        assert_eq!(given(Some("".into())), None);
        assert_eq!(given(None), None);
    }

    #[test]
    fn a_linker_on_the_path_leaves_the_path_alone() {
        let mut command = Command::new("cargo");
        Toolchain::nightly(None).apply(&mut command);
        assert!(command.get_envs().all(|(key, _)| key != "PATH"));
    }
}
