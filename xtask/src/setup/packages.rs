//! The servers and clients that tests drive, installed where this runs as root on a Debian.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::apt;
use crate::process::{self, say};

/// A program (or another file) that tests need, and the Debian package that has it.
struct Needed {
    program: &'static str,
    package: &'static str,
}

const NEEDED: [Needed; 14] = [
    Needed {
        program: "curl",
        package: "curl",
    },
    Needed {
        program: "nginx",
        package: "nginx",
    },
    Needed {
        program: "redis-server",
        package: "redis-server",
    },
    Needed {
        program: "redis-cli",
        package: "redis-tools",
    },
    Needed {
        program: "mariadbd",
        package: "mariadb-server",
    },
    Needed {
        program: "mariadb",
        package: "mariadb-client",
    },
    Needed {
        program: "gunicorn",
        package: "gunicorn",
    },
    // A library that gunicorn serves.
    Needed {
        program: "/usr/lib/python3/dist-packages/httpbin/core.py",
        package: "python3-httpbin",
    },
    // What Prometheus itself reads metrics with, in Python.
    Needed {
        program: "/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py",
        package: "python3-prometheus-client",
    },
    // A client of the CA's API, and a reader of its certificates.
    Needed {
        program: "/usr/lib/python3/dist-packages/grpc/__init__.py",
        package: "python3-grpcio",
    },
    Needed {
        program: "/usr/lib/python3/dist-packages/grpc_tools/protoc.py",
        package: "python3-grpc-tools",
    },
    Needed {
        program: "/usr/lib/python3/dist-packages/cryptography/__init__.py",
        package: "python3-cryptography",
    },
    // What the kernel has of programs, maps and links, read and undone by another hand.
    Needed {
        program: "bpftool",
        package: "bpftool",
    },
    Needed {
        program: "nft",
        package: "nftables",
    },
];

/// Installs what is missing; where it cannot, says so and leaves it to the tests to skip.
pub fn provide() -> Result<()> {
    let is_there = |file: &str| process::find(file).is_some() || Path::new(file).is_file();
    let missing = missing(is_there);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !apt::is_there() || !process::is_root() {
        say(format_args!(
            "not installed, tests that need them will skip: {names} (on Debian and Ubuntu, run \
             `cargo xtask setup` as root)"
        ));
        return Ok(());
    }
    say(format_args!(
        "installing what tests drive: {names} (their services stay stopped)"
    ));
    let _quiet = StoppedServices::new()?;
    install_with_fresh_lists(&missing)
}

fn missing(is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    NEEDED
        .iter()
        .filter(|needed| !is_there(needed.program))
        .map(|needed| needed.package)
        .collect()
}

/// Installs packages with apt, whose lists may be old, or missing.
pub fn install_with_fresh_lists(packages: &[&str]) -> Result<()> {
    if let Err(error) = install(packages) {
        say(format_args!(
            "{error:#}: once more with fresh package lists"
        ));
        apt::update()?;
        install(packages)?;
    }
    Ok(())
}

/// Installs packages with apt.
pub fn install(packages: &[&str]) -> Result<()> {
    process::run(
        Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("apt cannot install {}", packages.join(" ")))
}

/// Asked by Debian's packages before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const NO_STARTS: &str = "\
#!/bin/sh
# Written by ztun's `cargo xtask setup` while it installs packages, removed afterwards.
exit 101
";

/// While this lives, packages do not start their services. An administrator's own policy is
/// left in force; one that a killed set-up left behind is taken over, and removed in the end.
struct StoppedServices {
    remove: bool,
}

impl StoppedServices {
    fn new() -> Result<Self> {
        let path = Path::new(POLICY);
        let ours = match fs::read_to_string(path) {
            Ok(policy) => policy == NO_STARTS,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(_) => false,
        };
        if ours {
            fs::write(path, NO_STARTS)
                .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {POLICY}"))?;
        }
        Ok(Self { remove: ours })
    }
}

impl Drop for StoppedServices {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = fs::remove_file(POLICY)
        {
            say(format_args!(
                "cannot remove {POLICY}: {error}; remove it, or no service starts"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packages_of_absent_programs_are_missing() {
        assert_eq!(
            missing(|program| !matches!(program, "mariadbd" | "redis-cli")),
            ["redis-tools", "mariadb-server"]
        );
        assert!(missing(|_| true).is_empty());
    }
}
