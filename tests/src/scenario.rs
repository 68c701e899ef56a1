//! Runs a test on a mesh.

use std::{any, env, fs, io::Write, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use tokio::{runtime, time::timeout};

use crate::{
    cgroup, daemon, kernel,
    mesh::{Mesh, MeshBuilder},
};

/// A test that takes longer hangs.
const LIMIT: Duration = Duration::from_mins(3);
/// When set, a test that can't run here fails.
const REQUIRE_ALL: &str = "ZTUN_TEST_REQUIRE_ALL";

/// Runs `test` on a mesh with daemons and enrolled pods, or says why it can't run here.
///
/// # Panics
/// When the test fails, after its daemons' logs.
#[track_caller]
pub fn scenario<F>(mesh: MeshBuilder, test: F)
where
    F: AsyncFnOnce(&mut Mesh) -> Result<()>,
{
    let able = can_run_daemons().and_then(|()| has_what_it_needs(&mesh));
    run(able, any::type_name::<F>(), async || {
        let mut mesh = mesh.start().await.context("start the mesh")?;
        judge(test(&mut mesh).await, mesh);
        Ok(())
    });
}

/// Like [`scenario`], with the network alone: no daemon is started, and no pod is enrolled.
///
/// # Panics
/// When the test fails.
#[track_caller]
pub fn topology<F>(mesh: MeshBuilder, test: F)
where
    F: AsyncFnOnce(&mut Mesh) -> Result<()>,
{
    let able = can_build_networks().and_then(|()| has_what_it_needs(&mesh));
    run(able, any::type_name::<F>(), async || {
        let mut mesh = mesh.build().await.context("build the network")?;
        judge(test(&mut mesh).await, mesh);
        Ok(())
    });
}

/// Prints the line that `cargo xtask test` counts, past the test framework's capture of output.
///
/// # Panics
/// When skipping is not allowed.
pub fn skip(test: &str, reason: &str) {
    assert!(
        env::var_os(REQUIRE_ALL).is_none(),
        "{test} can't run here ({reason}), and {REQUIRE_ALL} is set"
    );
    let line = format!("SKIPPED: {test}: {reason}\n");
    let printed = std::io::stderr().write_all(line.as_bytes());
    debug_assert!(printed.is_ok());
}

/// Says why tests that need a network of their own can't run here.
pub fn can_build_networks() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("needs root, for network namespaces and cgroups".into());
    }
    cgroup::root().map(drop).map_err(|error| error.to_string())
}

/// Says why tests that need daemons can't run here.
pub fn can_run_daemons() -> Result<(), String> {
    can_build_networks()?;
    if fs::metadata("/sys/kernel/btf/vmlinux").is_err() {
        return Err("needs a kernel with BTF".into());
    }
    daemon::binary()
        .map(drop)
        .map_err(|error| error.to_string())
}

fn has_what_it_needs(mesh: &MeshBuilder) -> Result<(), String> {
    are_installed(&mesh.programs)?;
    mesh.features().try_for_each(kernel::Feature::require)
}

fn are_installed(programs: &[String]) -> Result<(), String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_missing = |program: &&String| {
        let mut directories = env::split_paths(&path);
        !directories.any(|directory| directory.join(program).exists())
    };
    match programs.iter().find(is_missing) {
        Some(program) => Err(format!(
            "needs {program}: `cargo xtask setup` provides it where it can"
        )),
        None => Ok(()),
    }
}

pub(crate) fn run(able: Result<(), String>, test: &str, body: impl AsyncFnOnce() -> Result<()>) {
    let test = test.trim_end_matches("::{{closure}}");
    if let Err(reason) = able {
        return skip(test, &reason);
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async { timeout(LIMIT, body()).await.context("the test hangs")? })
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

/// Panics while the mesh is still there, so that it prints its daemons' logs.
pub(crate) fn judge(result: Result<()>, mesh: Mesh) {
    if let Err(error) = result {
        panic!("{error:#}");
    }
    drop(mesh);
}
