//! What a process holds, from /proc.

use std::fs;

use anyhow::{Context, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB: `anonymous`, and pages of the binary and its libraries.
    pub resident: u64,
    /// Resident memory in KiB that no file stands behind: heap and stacks.
    pub anonymous: u64,
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Usage {
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let path = format!("/proc/{pid}/fd");
        let descriptors = fs::read_dir(&path).with_context(|| format!("list {path}"))?;
        Self::parse(&status, u64::try_from(descriptors.count())?)
            .with_context(|| format!("process {pid} has no memory: has it ended?"))
    }

    fn parse(status: &str, descriptors: u64) -> Option<Self> {
        let number = |key: &str| {
            let (_, value) = status
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| *name == key)?;
            value.trim().trim_end_matches(" kB").parse().ok()
        };
        Some(Self {
            resident: number("VmRSS")?,
            anonymous: number("RssAnon")?,
            threads: number("Threads")?,
            descriptors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status_of_a_process() {
        let status = "Name:\tztun\nVmHWM:\t   14000 kB\nVmRSS:\t   13272 kB\n\
                      RssAnon:\t    4120 kB\nThreads:\t4\n";
        let usage = Usage {
            resident: 13272,
            anonymous: 4120,
            threads: 4,
            descriptors: 9,
        };
        assert_eq!(Usage::parse(status, 9), Some(usage));
    }

    #[test]
    fn a_zombie_has_no_usage() {
        let status = "Name:\tztun\nState:\tZ (zombie)\nThreads:\t1\n";
        assert_eq!(Usage::parse(status, 0), None);
    }
}
