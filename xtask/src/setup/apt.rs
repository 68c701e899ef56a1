//! What apt knows, and downloading with it. Nothing here installs.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::process::{self, say};

pub fn is_there() -> bool {
    process::find("apt-get").is_some() && process::find("dpkg-deb").is_some()
}

/// Refreshes the package lists, which a fresh container image does not have.
pub fn update() -> Result<()> {
    say("refreshing apt's package lists (apt-get update)");
    process::run(apt_get().args(["update", "-q"]).stdout(Stdio::null()))
        .context("apt cannot refresh its lists: check the network and /etc/apt/sources.list*")
}

/// The version that apt would install.
pub fn candidate(package: &str) -> Result<Option<String>> {
    let policy = process::output(apt_cache().args(["policy", package]))?;
    Ok(parse_candidate(&policy).map(str::to_owned))
}

/// The `Depends` of a package in that version.
pub fn depends(package: &str, version: &str) -> Result<String> {
    let record = process::output(apt_cache().args(["show", &format!("{package}={version}")]))?;
    record
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .map(str::to_owned)
        .with_context(|| format!("apt knows no dependencies of {package} {version}"))
}

/// The packages that installing this one would add to the system, itself among them.
pub fn missing_with_dependencies(package: &str) -> Result<Vec<String>> {
    let simulation = process::output(apt_get().args([
        "install",
        "--simulate",
        "--no-install-recommends",
        package,
    ]))?;
    Ok(parse_new_packages(&simulation))
}

/// Downloads `package[=version]`s into a folder.
pub fn download(packages: &[String], dir: &Path) -> Result<()> {
    let mut command = apt_get();
    command.current_dir(dir).args(["download", "-q"]);
    if process::is_root() {
        // Apt's own user cannot write to the folder; apt would say so and do this by itself.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    process::run(command.args(packages).stdout(Stdio::null()))
}

fn apt_get() -> Command {
    english("apt-get")
}

fn apt_cache() -> Command {
    english("apt-cache")
}

fn english(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn parse_candidate(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
}

/// `Inst NAME (VERSION …)` is a new package, `Inst NAME [OLD] (VERSION …)` an upgrade.
pub fn parse_new_packages(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, rest)| !rest.starts_with('['))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_the_policy() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(parse_candidate(policy), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(
            parse_candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(
            parse_candidate(""),
            None,
            "apt says nothing of a package it does not know"
        );
    }

    #[test]
    fn upgrades_are_not_new_packages() {
        let simulation = "\
Reading package lists...
Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64])
Inst libz3-4 (4.8.12-3.1 Debian:12 [amd64])
Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12 [amd64])
Conf libz3-4 (4.8.12-3.1 Debian:12 [amd64])
";
        assert_eq!(parse_new_packages(simulation), ["libz3-4", "libllvm22"]);
    }
}
