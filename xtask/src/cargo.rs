//! What cargo knows about this workspace, and cargo run with the toolchain for kernel programs.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// A `cargo` command at the workspace's root.
pub fn command() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

pub fn root() -> PathBuf {
    // This package is a direct child of the workspace's root.
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// The workspace as `cargo metadata` tells it.
pub struct Workspace(Value);

impl Workspace {
    pub fn load() -> Result<Self> {
        let json =
            process::output(command().args(["metadata", "--no-deps", "--format-version=1"]))?;
        Self::parse(&json)
    }

    fn parse(json: &str) -> Result<Self> {
        let value =
            serde_json::from_str(json).context("cannot read the answer of `cargo metadata`")?;
        Ok(Self(value))
    }

    /// Where a binary of this workspace is built.
    pub fn binary(&self, profile_dir: &str, name: &str) -> Result<PathBuf> {
        let target = self.0["target_directory"]
            .as_str()
            .context("`cargo metadata` names no target directory")?;
        Ok(PathBuf::from(target).join(profile_dir).join(name))
    }

    /// Whether the package has a test target (`tests/NAME.rs`) of that name.
    pub fn has_test_target(&self, package: &str, name: &str) -> bool {
        self.packages()
            .filter(|candidate| candidate["name"] == package)
            .flat_map(|package| package["targets"].as_array().into_iter().flatten())
            .any(|target| target["name"] == name && target["kind"][0] == "test")
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().into_iter().flatten()
    }
}

/// A test binary, and the folder of the package that it belongs to.
#[derive(Debug, PartialEq)]
pub struct TestBinary {
    pub crate_name: String,
    pub executable: PathBuf,
    pub package_dir: PathBuf,
}

/// Builds test binaries with `cargo test --no-run` and answers where they are.
pub fn build_tests(cargo: &mut Command) -> Result<Vec<TestBinary>> {
    cargo
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    Ok(test_binaries(&process::output(cargo)?))
}

fn test_binaries(messages: &str) -> Vec<TestBinary> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let mut package_dir = PathBuf::from(message["manifest_path"].as_str()?);
            package_dir.pop();
            Some(TestBinary {
                crate_name: message["target"]["name"].as_str()?.replace('-', "_"),
                executable: message["executable"].as_str()?.into(),
                package_dir,
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn test_targets_are_found_by_package_and_name() {
        let workspace = Workspace::parse(
            r#"{"target_directory":"/t","packages":[
                {"name":"ztun-tests","targets":[
                    {"name":"datapath","kind":["test"]},{"name":"ztun-demo","kind":["bin"]}]},
                {"name":"ztun","targets":[{"name":"faults","kind":["test"]}]}]}"#,
        )
        .unwrap();
        assert!(workspace.has_test_target("ztun-tests", "datapath"));
        assert!(
            !workspace.has_test_target("ztun-tests", "ztun-demo"),
            "a binary is no test"
        );
        assert!(
            !workspace.has_test_target("ztun-tests", "faults"),
            "another package's"
        );
        assert_eq!(
            workspace.binary("debug", "ztun").unwrap(),
            PathBuf::from("/t/debug/ztun")
        );
    }

    #[test]
    fn only_test_executables_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/ztun/Cargo.toml","target":{"name":"ztun"},"profile":{"test":false},"executable":"/t/ztun"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/ztun/Cargo.toml","target":{"name":"ztun"},"profile":{"test":true},"executable":"/t/deps/ztun-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/r/serde/Cargo.toml","target":{"name":"serde"},"profile":{"test":false},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            test_binaries(messages),
            [TestBinary {
                crate_name: "ztun".into(),
                executable: "/t/deps/ztun-1".into(),
                package_dir: "/w/ztun".into(),
            }]
        );
    }
}
