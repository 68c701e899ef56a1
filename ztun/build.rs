//! Generates the code of the wire formats in `proto`, and builds the kernel programs into the daemon,
//! if a toolchain for them is named.
//!
//! `ZTUN_EBPF_TOOLCHAIN` is what `rustup run` takes: a toolchain's name (`nightly`, with rust-src)
//! or the absolute path of a toolchain folder with a prebuilt core library for the kernel's target.
//! `cargo xtask build` sets it. Without it the daemon builds, and says at start what it lacks.

use std::{
    env, fs,
    hash::{DefaultHasher, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

const TOOLCHAIN: &str = "ZTUN_EBPF_TOOLCHAIN";
const PROGRAMS: &str = "ztun-ebpf";
const PROTO: &str = "proto";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTO}");
    generate_wire_formats()?;
    let out = env::var_os("OUT_DIR").context("OUT_DIR is not set: run this by cargo")?;
    let object = PathBuf::from(out).join(PROGRAMS);
    build_programs(&object)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(object)?);
    // By it a daemon knows whether an earlier one loaded the same programs.
    println!(
        "cargo:rustc-env=ZTUN_PROGRAMS_DIGEST={:016x}",
        hasher.finish()
    );
    Ok(())
}

fn build_programs(object: &Path) -> anyhow::Result<()> {
    let toolchain = env::var(TOOLCHAIN).unwrap_or_default();
    if toolchain.is_empty() {
        return Ok(fs::write(object, [])?);
    }
    if toolchain.starts_with('/') {
        allow_unstable_features_of_aya();
    }
    println!(concat!(
        "cargo:rerun-if-changed=",
        env!("CARGO_MANIFEST_DIR"),
        "/../ztun-common"
    ));
    let package = Package {
        name: PROGRAMS,
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../ztun-ebpf"),
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
}

/// With a compiler in Rust, so that building needs no `protoc`.
fn generate_wire_formats() -> anyhow::Result<()> {
    let files = protox::compile(["istio/ca.proto"], [PROTO])?;
    tonic_prost_build::configure()
        .compile_fds(files)
        .context("generate the code of the wire formats")
}

/// A toolchain folder is a stable compiler, and aya-ebpf needs one unstable feature of it. Naming
/// the crate, rather than `1`, also keeps aya-build from building a core library that is there.
#[allow(unsafe_code)]
fn allow_unstable_features_of_aya() {
    // SAFETY: a build script's main thread, before any other thread exists.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf") };
}
