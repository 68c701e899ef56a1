//! The groups of tests, and which of them a filter can match.

use std::{convert::Infallible, fmt, str::FromStr};

use anyhow::{Context, Result};

use super::{lint, suite::Suite};
use crate::{
    cargo::{self, TestBinary, Workspace},
    process::say,
    setup::Toolchain,
    vm::Matrix,
};

/// The package whose test targets, but for `lint` and `unit`, are the groups.
const PACKAGE: &str = "ztun-tests";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Group {
    /// Formatting and clippy.
    Lint,
    /// What needs neither root nor a kernel.
    Unit,
    /// The harness's own.
    Harness,
    Datapath,
    /// Beside other owners of eBPF, rules and sysctls.
    Coexistence,
    Scenarios,
    Interop,
    Faults,
    Vm,
}

impl Group {
    pub const ALL: [Self; 9] = [
        Self::Lint,
        Self::Unit,
        Self::Harness,
        Self::Datapath,
        Self::Coexistence,
        Self::Scenarios,
        Self::Interop,
        Self::Faults,
        Self::Vm,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Harness => "harness",
            Self::Datapath => "datapath",
            Self::Coexistence => "coexistence",
            Self::Scenarios => "scenarios",
            Self::Interop => "interop",
            Self::Faults => "faults",
            Self::Vm => "vm",
        }
    }

    /// Whether its tests run the daemon, and so need the kernel programs.
    pub fn drives_daemon(self) -> bool {
        !matches!(self, Self::Lint | Self::Unit)
    }

    /// Whether it is a test target of its own.
    fn has_target(self) -> bool {
        !matches!(self, Self::Lint | Self::Unit | Self::Vm)
    }

    pub fn exists(self, workspace: &Workspace) -> bool {
        !self.has_target() || workspace.has_test_target(PACKAGE, self.name())
    }

    /// Builds its tests, and lists them.
    pub fn build(self, toolchain: Option<&Toolchain>) -> Result<Vec<Suite>> {
        let name = self.name();
        if self == Self::Lint {
            return Ok(lint::suites());
        }
        if self == Self::Vm {
            let toolchain = toolchain.context("guests need the kernel programs' toolchain")?;
            return Ok(vec![Suite::of_matrix(Matrix::prepare(toolchain, &[])?)]);
        }
        say(format_args!("building the tests of {name}"));
        let binaries = match self {
            Self::Unit => {
                // Without packages named, cargo takes the workspace's default members.
                let mut binaries = build(toolchain, &[])?;
                binaries.extend(build(
                    toolchain,
                    &["--package", PACKAGE, "--lib", "--bins"],
                )?);
                binaries
            }
            _ => build(toolchain, &["--package", PACKAGE, "--test", name])?,
        };
        binaries
            .into_iter()
            .map(|binary| {
                let prefix = match self {
                    Self::Unit => format!("{name}::{}", binary.crate_name),
                    _ => name.to_owned(),
                };
                Suite::of_binary(prefix, binary)
            })
            .collect::<Result<_>>()
            .with_context(|| format!("cannot list the tests of {name}"))
    }
}

fn build(toolchain: Option<&Toolchain>, args: &[&str]) -> Result<Vec<TestBinary>> {
    let mut command = cargo::command();
    command.arg("test").args(args);
    if let Some(toolchain) = toolchain {
        toolchain.apply(&mut command);
    }
    cargo::build_tests(&mut command)
}

/// What a test's path must contain. Where it begins with a group, what it must begin with.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    group: Option<Group>,
}

impl Filter {
    fn matches(&self, path: &str) -> bool {
        match self.group {
            // `unit` means the group, not every path with these four letters in it.
            Some(group) if self.text == group.name() => path
                .strip_prefix(&self.text)
                .is_some_and(|rest| rest.starts_with("::")),
            Some(_) => path.starts_with(&self.text),
            None => path.contains(&self.text),
        }
    }
}

impl FromStr for Filter {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let first = text.split("::").next().unwrap_or_default();
        let group = Group::ALL.into_iter().find(|group| group.name() == first);
        Ok(Self {
            text: text.to_owned(),
            group,
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether any test of the group can match; no filter matches everything.
pub fn selects_from(filters: &[Filter], group: Group) -> bool {
    filters.is_empty()
        || filters
            .iter()
            .any(|filter| filter.group.is_none_or(|wanted| wanted == group))
}

pub fn selects(filters: &[Filter], path: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn without_filters_everything_is_selected() {
        assert!(Group::ALL.into_iter().all(|group| selects_from(&[], group)));
        assert!(selects(&[], "unit::ztun::a"));
    }

    #[test]
    fn a_group_selects_its_own_tests_only() {
        let unit = filters(&["unit"]);
        assert!(selects_from(&unit, Group::Unit));
        assert!(
            !selects_from(&unit, Group::Datapath),
            "datapath need not be built"
        );
        assert!(selects(&unit, "unit::ztun::a"));
        assert!(!selects(&unit, "datapath::unit::a"));
    }

    #[test]
    fn a_path_below_a_group_narrows_it() {
        let filters = filters(&["datapath::ipv6"]);
        assert!(!selects_from(&filters, Group::Unit));
        assert!(selects(&filters, "datapath::ipv6::half_close"));
        assert!(!selects(&filters, "datapath::ipv4::half_close"));
    }

    #[test]
    fn any_other_text_matches_anywhere_in_any_group() {
        let filters = filters(&["half_close", "unit::ztun::cert"]);
        assert!(selects_from(&filters, Group::Faults));
        assert!(selects(&filters, "datapath::ipv6::half_close"));
        assert!(selects(&filters, "unit::ztun::cert::rotates"));
        assert!(!selects(&filters, "unit::ztun::mesh::rotates"));
    }
}
