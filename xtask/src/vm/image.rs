//! What guests run: test binaries, the daemon and an init, linked statically and built once for every
//! kernel; and the initramfs that brings them, with the kernel's modules and a plan.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{borrowed, cpio::Archive, kernels::Kernel, modules};
use crate::{
    cargo::{self, TestBinary, Workspace},
    process::{self, say},
    setup::Toolchain,
};

/// The test targets that guests run.
pub const TARGETS: [&str; 9] = [
    "harness",
    "datapath",
    "coexistence",
    "scenarios",
    "interop",
    "faults",
    "netkit",
    REFUSAL,
    TWO_NODES,
];
/// The one for kernels that are not supported.
pub const REFUSAL: &str = "refusal";
/// The one for two guests at once.
pub const TWO_NODES: &str = "two_nodes";

const PACKAGE: &str = "ztun-tests";
const PROFILE: &str = "vm";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// There is nothing to link with in a guest.
const STATIC: &str = "-Ctarget-feature=+crt-static";

const INIT: &str = "ztun-init";
/// Beside the test binaries.
const PROGRAMS: [&str; 3] = ["ztun", "ztun-pod", "ztun-connect"];

/// The binaries.
pub struct Build {
    pub tests: Vec<TestBinary>,
    directory: PathBuf,
}

impl Build {
    pub fn make(toolchain: &Toolchain) -> Result<Self> {
        say("building the daemon and the tests for guests");
        let mut programs = cargo_for_guests("build", toolchain);
        programs.args(["--package", "ztun", "--package", PACKAGE, "--bins"]);
        process::run(&mut programs)?;
        let mut tests = cargo_for_guests("test", toolchain);
        tests.args(["--package", PACKAGE]);
        for target in TARGETS {
            tests.args(["--test", target]);
        }
        let mut tests = cargo::build_tests(&mut tests)?;
        tests.retain(|binary| TARGETS.contains(&binary.crate_name.as_str()));
        let directory = Workspace::load()?.binary(&format!("{TRIPLE}/{PROFILE}"), "")?;
        Ok(Self { tests, directory })
    }

    /// Writes the initramfs of a guest.
    pub fn write_initramfs(&self, kernel: &Kernel, plan: &Value, to: &Path) -> Result<()> {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "sys", "tmp", "run", "etc", "bin", "lib"] {
            archive.directory(directory);
        }
        // The kernel opens the first for its init, the second is what Rust's runtime opens.
        archive.character_device("dev/console", 5, 1);
        archive.character_device("dev/null", 1, 3);
        archive.program("init", &read(&self.directory.join(INIT))?);
        for program in PROGRAMS {
            let content = read(&self.directory.join(program))?;
            archive.program(&format!("bin/{program}"), &content);
        }
        for binary in &self.tests {
            let content = read(&binary.executable)?;
            archive.program(&in_guest(&binary.crate_name)[1..], &content);
        }
        borrowed::add_to(&mut archive)?;
        let mut list = String::new();
        for module in modules::closure(&kernel.modules)? {
            let path = format!("lib/{}.ko", module.name);
            archive.file(&path, &module.content);
            list.extend(["/", &path, "\n"]);
        }
        archive.file("modules", list.as_bytes());
        archive.file("plan.json", plan.to_string().as_bytes());
        fs::write(to, archive.finish()).with_context(|| format!("cannot write {}", to.display()))
    }
}

/// Where a guest has a test binary.
pub fn in_guest(target: &str) -> String {
    format!("/bin/{target}")
}

fn cargo_for_guests(subcommand: &str, toolchain: &Toolchain) -> Command {
    let mut command = cargo::command();
    command
        .args([subcommand, "--profile", PROFILE, "--target", TRIPLE])
        // Named for the target, so that it does not change what runs at build time.
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", STATIC);
    toolchain.apply(&mut command);
    command
}

pub fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
