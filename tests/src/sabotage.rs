//! Proves that the tests notice a kernel program that does not do its work.
//!
//! `ZTUN_TEST_SABOTAGE=steer` takes that program off every pod once it is enrolled, and once its daemon has
//! died: then tests must fail.

use std::{env, fs, io, path::Path, thread, time::Duration};

use anyhow::{Context, Result};

const VARIABLE: &str = "ZTUN_TEST_SABOTAGE";
const DETACHED: Duration = Duration::from_millis(200);

/// How often a daemon looks whether its pods are captured, if not as often as by default: it would undo the sabotage.
pub(crate) fn verify_interval() -> Option<&'static str> {
    env::var_os(VARIABLE).map(|_| "1h")
}

/// Removes the program's pins below `pins`, if one is to be sabotaged: an unpinned link is gone.
pub(crate) fn of_tests(pins: &Path) -> Result<()> {
    let Ok(program) = env::var(VARIABLE) else {
        return Ok(());
    };
    let removed = remove(pins, &program);
    // The kernel takes an unpinned link off in its own time.
    thread::sleep(DETACHED);
    removed.with_context(|| format!("take off {program}, which {VARIABLE} names"))
}

fn remove(directory: &Path, name: &str) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), name)?;
        } else if entry.file_name() == name {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
