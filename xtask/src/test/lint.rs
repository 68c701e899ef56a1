//! The group `lint`: formatting and clippy, each as one test.

use super::{libtest::Outcome, suite::Suite};
use crate::{cargo, process, setup::Toolchain};

#[derive(Clone, Copy)]
pub enum Lint {
    Format,
    Clippy,
}

pub fn suites() -> Vec<Suite> {
    vec![Suite::of_lint(Lint::Format), Suite::of_lint(Lint::Clippy)]
}

impl Lint {
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "formatting",
            Self::Clippy => "clippy",
        }
    }

    pub fn run(self, toolchain: Option<&Toolchain>) -> Outcome {
        let subcommand = self.subcommand();
        if !installed(subcommand) {
            let reason = format!("`cargo {subcommand}` is not installed");
            return Outcome::Skipped(reason);
        }
        let mut command = cargo::command();
        command.arg(subcommand).args(self.args());
        if let Some(toolchain) = toolchain {
            toolchain.apply(&mut command);
        }
        // What is wrong is for the user to read: it goes to the terminal as it comes.
        match process::run(&mut command) {
            Ok(()) => Outcome::Passed,
            Err(_) => Outcome::Failed,
        }
    }

    fn subcommand(self) -> &'static str {
        match self {
            Self::Format => "fmt",
            Self::Clippy => "clippy",
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Format => &["--all", "--check"],
            // The kernel programs compile for BPF only.
            Self::Clippy => &[
                "--workspace",
                "--exclude",
                "ztun-ebpf",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ],
        }
    }
}

fn installed(subcommand: &str) -> bool {
    process::output(cargo::command().args([subcommand, "--version"])).is_ok()
}
