//! `bpf-linker`, linked with the very LLVM that the toolchain for kernel programs uses.

use std::{fs, ops::RangeInclusive, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::process::{self, say};

pub const VERSION: &str = "0.13.0";
/// Each is a cargo feature of bpf-linker, `llvm-NN`.
const LLVM_RELEASES: RangeInclusive<u32> = 21..=23;

/// Builds `ROOT/bin/bpf-linker` with the `libLLVM.so` that is in `PREFIX/lib`.
pub fn install(root: &Path, llvm_prefix: &Path, llvm_release: u32) -> Result<()> {
    check_release(llvm_release)?;
    say(format_args!(
        "building bpf-linker {VERSION} with LLVM {llvm_release} (a minute or two)"
    ));
    let build_dir = root.join("build");
    // From outside the workspace, whose cargo configuration is none of bpf-linker's.
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["install", "bpf-linker", "--quiet", "--version", VERSION])
        .args(["--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm_release}"))
        .arg("--root")
        .arg(root)
        .env("LLVM_PREFIX", llvm_prefix)
        // The linker looks here for what libLLVM needs in turn and the system may not have.
        .env("LD_LIBRARY_PATH", llvm_prefix.join("lib"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_TARGET_DIR", &build_dir);
    process::run(&mut cargo).context("bpf-linker cannot be built: is a C compiler installed?")?;
    fs::remove_dir_all(&build_dir).with_context(|| format!("cannot remove {}", build_dir.display()))
}

/// Whether there is a bpf-linker on the PATH that is recent enough.
pub fn is_on_path() -> bool {
    process::find("bpf-linker").is_some_and(|program| is_usable(&mut Command::new(program)))
}

/// Whether the bpf-linker that `install` made runs.
pub fn is_installed(root: &Path, llvm_prefix: &Path) -> bool {
    // As `rustup run` sets it when the kernel programs are built.
    let libs = llvm_prefix.join("lib");
    is_usable(Command::new(root.join("bin/bpf-linker")).env("LD_LIBRARY_PATH", libs))
}

fn is_usable(bpf_linker: &mut Command) -> bool {
    process::output(bpf_linker.arg("--version"))
        .is_ok_and(|answer| parse_version(&answer) >= parse_version(VERSION))
}

/// `libLLVM.so.22.1` is of release 22.
pub fn llvm_release(file_name: &str) -> Option<u32> {
    let version = file_name.strip_prefix("libLLVM.so.")?;
    version.split('.').next()?.parse().ok()
}

fn check_release(llvm_release: u32) -> Result<()> {
    if LLVM_RELEASES.contains(&llvm_release) {
        return Ok(());
    }
    bail!(
        "bpf-linker {VERSION} can be built with LLVM {} to {}, and this toolchain uses LLVM \
         {llvm_release}: put a bpf-linker for it on the PATH, or use an older toolchain",
        LLVM_RELEASES.start(),
        LLVM_RELEASES.end(),
    )
}

/// `bpf-linker 0.13.0` or `0.13.0`.
fn parse_version(answer: &str) -> Option<(u32, u32, u32)> {
    let mut parts = answer
        .split_whitespace()
        .last()?
        .splitn(3, '.')
        .map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(parse_version("bpf-linker 0.13.0\n"), Some((0, 13, 0)));
        assert!(parse_version("bpf-linker 0.9.15") < parse_version(VERSION));
        assert_eq!(parse_version("bpf-linker"), None);
    }

    #[test]
    fn an_llvm_that_bpf_linker_does_not_know_is_refused_with_what_to_do() {
        assert!(check_release(22).is_ok());
        for release in [20, 24] {
            let error = check_release(release).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains(&format!("LLVM {release}"))));
        }
    }

    #[test]
    fn the_llvm_release_is_in_the_librarys_name() {
        assert_eq!(llvm_release("libLLVM.so.22.1"), Some(22));
        assert_eq!(
            llvm_release("libLLVM.so.22.1-rust-1.97.0-nightly"),
            Some(22)
        );
        assert_eq!(llvm_release("libLLVM-22.so"), None);
        assert_eq!(llvm_release("libz.so.1"), None);
    }
}
