//! A guest that can be started: its initramfs with its plan, and QEMU's command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::{
    entry::Entry,
    guest::Target,
    image,
    kernels::Wanted,
    matrix::{Matrix, Options},
    pair,
    qemu::{Boot, Cable},
};
use crate::process;

/// A guest that can be started.
pub struct Machine {
    pub qemu: Command,
    pub console: PathBuf,
    initramfs: PathBuf,
}

impl Machine {
    /// Writes what the guest boots from. One of two has a node of its own, and a cable to the other.
    pub fn assemble(
        matrix: &Matrix,
        guest: &Entry,
        prefix: &str,
        targets: &[Target],
        node: Option<(&str, Cable)>,
    ) -> Result<Machine> {
        let qemu = matrix.qemu.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        let kernel = guest
            .kernel
            .as_ref()
            .map_err(|reason| anyhow!("{reason}"))?;
        let (node, cable) = node.unzip();
        let name = match node {
            Some(node) => format!("{}-{node}", pair::NAME),
            None => guest.name().to_owned(),
        };
        let initramfs = matrix.directory.join(format!("{name}.cpio"));
        let console = matrix.directory.join(format!("{name}.console"));
        let plan = plan(guest.wanted, targets, node, &matrix.options);
        matrix.build.write_initramfs(kernel, &plan, &initramfs)?;
        let qemu = qemu.command(&Boot {
            kernel: &kernel.image,
            initramfs: &initramfs,
            console: &console,
            parameters: guest.wanted.parameters,
            cable,
        });
        if matrix.options.keep {
            println!("{prefix}: {}", process::line(&qemu));
        }
        Ok(Machine {
            qemu,
            console,
            initramfs,
        })
    }

    /// Removes the files of a guest that has ended, unless they are to be kept.
    pub fn scrap(&self, options: &Options) -> Result<()> {
        if options.keep {
            return Ok(());
        }
        remove(&self.initramfs)?;
        remove(&self.console)
    }
}

fn plan(wanted: &Wanted, targets: &[Target], node: Option<&str>, options: &Options) -> Value {
    let mut environment = json!({
        "PATH": "/bin",
        "ZTUN_BIN": "/bin/ztun",
        "ZTUN_TEST_EFFORT": "2",
    });
    let mut arguments = vec!["--exact", "--show-output", "--color", "never"];
    if let Some(node) = node {
        environment["ZTUN_TEST_NODE"] = json!(node);
        // The other one is at the same test.
        arguments.extend(["--test-threads", "1"]);
    }
    if let Some(program) = &options.sabotage {
        environment["ZTUN_TEST_SABOTAGE"] = json!(program);
    }
    let runs: Vec<_> = targets
        .iter()
        .map(|target| {
            let tests = target.tests.iter().map(String::as_str);
            json!({
                "name": target.name,
                "program": image::in_guest(&target.name),
                "arguments": arguments.iter().copied().chain(tests).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "cgroups": wanted.cgroups.name(),
        "reverse_path_filter": wanted.reverse_path_filter,
        "environment": environment,
        "runs": runs,
    })
}

fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
}
