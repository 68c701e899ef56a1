//! Running other programs, with errors that name the command.

use std::{
    env,
    ffi::OsStr,
    fmt::Display,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Output},
};

use anyhow::{Context, Result, bail};

/// Where servers are installed, which is not on an ordinary user's PATH.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Tells the user what is being done. Standard output is left to results.
pub fn say(message: impl Display) {
    eprintln!("==> {message}");
}

/// Runs to the end with our own stdin, stdout and stderr; a failure is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    check(command, status, b"")
}

/// Runs to the end and answers what it printed; its stderr is in the error.
pub fn output(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    check(command, status, &stderr)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs to the end and hands its exit code on.
pub fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = status(command)?;
    // A shell's convention for a death by signal.
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The program's path, searched for in PATH and where servers are installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// Has a command find programs in `dir` first.
pub fn put_on_path(command: &mut Command, dir: &Path) {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(dir.to_owned()).chain(env::split_paths(&path));
    // A folder with a colon in its name cannot be on a PATH: whoever needs its programs says that
    // there are none.
    if let Ok(path) = env::join_paths(dirs) {
        command.env("PATH", path);
    }
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The command as one would type it, without the environment.
pub fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))
}

fn check(command: &Command, status: ExitStatus, stderr: &[u8]) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(stderr);
    let detail = stderr.trim();
    let separator = if detail.is_empty() { "" } else { "\n" };
    bail!("`{}` failed: {status}{separator}{detail}", line(command))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]))
            .expect_err("exit 3 is a failure")
            .to_string();
        assert!(error.starts_with("`sh -c"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("no such thing"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("no-such-program-anywhere")).expect_err("not there");
        assert!(error.to_string().contains("no-such-program-anywhere"));
        assert_eq!(find("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_program_on_the_path_is_found() {
        assert!(find("sh").is_some_and(|path| path.ends_with("sh")));
    }
}
