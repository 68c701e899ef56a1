//! The toolchain from rustup: nightly with rust-src, from which cargo builds libcore for BPF.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    Toolchain,
    bpf_linker::{self, llvm_release},
    cache::Cache,
};
use crate::process::{self, say};

pub const CHANNEL: &str = "nightly";

const ENTRY: &str = "rustup";

/// A nightly toolchain that has rust-src.
pub struct Nightly {
    sysroot: PathBuf,
    llvm_version: String,
}

impl Nightly {
    /// Looks, and downloads nothing.
    pub fn find() -> Option<Self> {
        let toolchains = process::output(rustup().args(["toolchain", "list"])).ok()?;
        if !lists_nightly(&toolchains) {
            return None;
        }
        let rustc = |arg| process::output(rustup().args(["run", CHANNEL, "rustc", arg])).ok();
        let sysroot = PathBuf::from(rustc("--print=sysroot")?.trim());
        let llvm_version = parse_llvm_version(&rustc("-vV")?)?.to_owned();
        let has_rust_src = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
        has_rust_src.then_some(Self {
            sysroot,
            llvm_version,
        })
    }

    pub fn download() -> Result<Self> {
        if process::find("rustup").is_none() {
            bail!("rustup is not installed: see https://rustup.rs, then run this again");
        }
        say("installing Rust nightly with rust-src (rustup toolchain install)");
        process::run(Command::new("rustup").args([
            "toolchain",
            "install",
            CHANNEL,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))
        .context(
            "rustup cannot download here: install nightly with rust-src, then run this again",
        )?;
        Self::find().context("rustup installed nightly, but it has no rust-src")
    }

    /// With a bpf-linker on the PATH, or one that an earlier set-up made for it.
    pub fn installed(&self, cache: &Cache) -> Option<Toolchain> {
        if bpf_linker::is_on_path() {
            return Some(Toolchain::nightly(None));
        }
        let entry = cache.entry(ENTRY);
        let works =
            entry.is_complete(&self.recipe()) && bpf_linker::is_installed(entry.dir(), entry.dir());
        works.then(|| Toolchain::nightly(Some(entry.dir().join("bin"))))
    }

    /// Makes a bpf-linker for it.
    pub fn install(&self, cache: &Cache) -> Result<Toolchain> {
        cache.entry(ENTRY).make(&self.recipe(), |dir| {
            let release = self.copy_llvm(&dir.join("lib"))?;
            bpf_linker::install(dir, dir, release)
        })?;
        self.installed(cache)
            .context("it was set up, but its bpf-linker does not run")
    }

    /// A nightly with another LLVM needs another bpf-linker.
    fn recipe(&self) -> String {
        format!(
            "layout 1, bpf-linker {}, LLVM {}",
            bpf_linker::VERSION,
            self.llvm_version
        )
    }

    /// Copies nightly's LLVM, for `rustup update` would remove it under bpf-linker's feet.
    /// Answers its release.
    fn copy_llvm(&self, to: &Path) -> Result<u32> {
        let from = self.sysroot.join("lib");
        let (name, release) = fs::read_dir(&from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find_map(|name| llvm_release(&name).map(|release| (name, release)))
            .with_context(|| {
                format!(
                    "{} holds no libLLVM.so.NN: put a bpf-linker on the PATH",
                    from.display()
                )
            })?;
        fs::create_dir_all(to)
            .and_then(|()| fs::copy(from.join(&name), to.join(&name)))
            .and_then(|_| symlink(&name, to.join("libLLVM.so")))
            .with_context(|| format!("cannot copy {name} to {}", to.display()))?;
        Ok(release)
    }
}

/// A `rustup` that does not download what a command lacks.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// `nightly-x86_64-unknown-linux-gnu (default)`, and not `nightly-2026-05-20-x86_64-…`.
fn lists_nightly(toolchains: &str) -> bool {
    toolchains
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|name| name.strip_prefix("nightly-"))
        .any(|host| !host.starts_with(|c: char| c.is_ascii_digit()))
}

fn parse_llvm_version(rustc_version: &str) -> Option<&str> {
    rustc_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_nightly_is_not_the_nightly() {
        assert!(lists_nightly(
            "stable-x86_64-unknown-linux-gnu (active)\nnightly-x86_64-unknown-linux-gnu\n"
        ));
        assert!(!lists_nightly(
            "nightly-2026-05-20-x86_64-unknown-linux-gnu\n"
        ));
        assert!(!lists_nightly("no installed toolchains\n"));
    }

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        let version = "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_llvm_version(version), Some("22.1.4"));
        assert_eq!(parse_llvm_version("rustc 1.97.0-nightly\n"), None);
    }
}
