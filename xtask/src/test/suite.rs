//! Tests that run together: one test binary's, or one lint.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::Result;

use super::{
    libtest,
    lint::Lint,
    progress::{Progress, path},
    supervise::{self, Limits},
    tally::{self, Tally, Voice},
};
use crate::{
    cargo::TestBinary,
    process,
    setup::Toolchain,
    vm::{self, Matrix},
};

/// How every binary is run.
pub struct Settings {
    /// The daemon that the tests start.
    pub daemon: Option<PathBuf>,
    /// The folder with Envoy.
    pub envoy: Option<PathBuf>,
    /// Tells tests to fail where they would skip.
    pub require_all: bool,
    pub test_threads: Option<u16>,
    pub deadline: Duration,
}

pub struct Suite {
    /// What comes before a test's name in its path.
    prefix: String,
    tests: Vec<String>,
    kind: Kind,
}

enum Kind {
    Binary {
        binary: TestBinary,
        selection: Selection,
    },
    Lint(Lint),
    Vm(Box<Matrix>),
}

#[derive(PartialEq)]
enum Selection {
    All,
    Some,
}

impl Suite {
    pub fn of_binary(prefix: String, binary: TestBinary) -> Result<Self> {
        let tests = libtest::list(&binary)?;
        let kind = Kind::Binary {
            binary,
            selection: Selection::All,
        };
        Ok(Self {
            prefix,
            tests,
            kind,
        })
    }

    pub fn of_lint(lint: Lint) -> Self {
        Self {
            prefix: "lint".to_owned(),
            tests: vec![lint.name().to_owned()],
            kind: Kind::Lint(lint),
        }
    }

    pub fn of_matrix(matrix: Matrix) -> Self {
        Self {
            prefix: "vm".to_owned(),
            tests: matrix.tests(),
            kind: Kind::Vm(Box::new(matrix)),
        }
    }

    /// Keeps only the tests whose path is wanted.
    pub fn select(&mut self, wanted: impl Fn(&str) -> bool) {
        let before = self.tests.len();
        let prefix = &self.prefix;
        self.tests.retain(|test| wanted(&path(prefix, test)));
        if let Kind::Binary { selection, .. } = &mut self.kind
            && self.tests.len() < before
        {
            *selection = Selection::Some;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.tests.iter().map(|test| path(&self.prefix, test))
    }

    /// Runs its tests, telling each as it ends.
    pub fn run(
        &self,
        settings: &Settings,
        toolchain: Option<&Toolchain>,
        tally: &mut Tally,
    ) -> Result<()> {
        match &self.kind {
            Kind::Binary { binary, selection } => {
                let mut command = settings.command(binary);
                if *selection == Selection::Some {
                    command.arg("--exact").args(&self.tests);
                }
                self.run_binary(&mut command, &binary.crate_name, settings.deadline, tally)
            }
            Kind::Lint(lint) => {
                let outcome = lint.run(toolchain);
                for path in self.paths() {
                    tally::tell(&path, &outcome);
                    tally.add(path, &outcome);
                }
                Ok(())
            }
            Kind::Vm(matrix) => {
                let rows = matrix.run(&self.tests)?;
                for (path, outcome) in vm::outcomes(rows) {
                    tally.add(path, &outcome);
                }
                Ok(())
            }
        }
    }

    fn run_binary(
        &self,
        command: &mut Command,
        crate_name: &str,
        deadline: Duration,
        tally: &mut Tally,
    ) -> Result<()> {
        let limits = Limits {
            total: deadline,
            silence: deadline,
            stop: None,
        };
        let mut progress = Progress::new(&self.prefix, crate_name, Voice::Everything);
        let run = supervise::run(command, limits, |line| progress.line(line))?;
        for (path, outcome) in progress.finish(&self.tests, &run) {
            tally.add(path, &outcome);
        }
        Ok(())
    }
}

impl Settings {
    fn command(&self, binary: &TestBinary) -> Command {
        let mut command = Command::new(&binary.executable);
        command
            .current_dir(&binary.package_dir)
            .env("CARGO_MANIFEST_DIR", &binary.package_dir)
            .args(["--show-output", "--color", "never"]);
        if let Some(threads) = self.test_threads {
            command.arg("--test-threads").arg(threads.to_string());
        }
        if let Some(daemon) = &self.daemon {
            command.env("ZTUN_BIN", daemon);
        }
        if let Some(envoy) = &self.envoy {
            process::put_on_path(&mut command, envoy);
        }
        if self.require_all {
            command.env("ZTUN_TEST_REQUIRE_ALL", "1");
        }
        command
    }
}
