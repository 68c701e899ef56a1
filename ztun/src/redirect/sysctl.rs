//! Sysctls of the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

use thiserror::Error;

/// A sysctl by its path below `/proc/sys`, such as `net/ipv4/tcp_fwmark_accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl(pub &'static str);

#[derive(Debug, Error)]
#[error("cannot set {} to {value}: {error}; the daemon needs a writable /proc/sys", sysctl.0.replace('/', "."))]
pub struct SysctlError {
    sysctl: Sysctl,
    value: String,
    error: io::Error,
}

impl Sysctl {
    /// The value, or nothing where this kernel has no such sysctl.
    pub fn get(self) -> Option<String> {
        fs::read_to_string(self.path())
            .ok()
            .map(|value| value.trim().to_owned())
    }

    /// Sets the value and says which other one it replaced.
    pub fn set(self, value: &str) -> Result<Option<String>, SysctlError> {
        let previous = self.get();
        if previous.as_deref() == Some(value) {
            return Ok(None);
        }
        fs::write(self.path(), value).map_err(|error| SysctlError {
            sysctl: self,
            value: value.to_owned(),
            error,
        })?;
        Ok(previous)
    }

    fn path(self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.0)
    }
}
