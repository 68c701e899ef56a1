//! The TCP sockets of network namespaces, as the kernel counts them.

use std::{fs, io, iter::Sum, ops::Add};

use anyhow::{Context, Result};
use ztun_tests::{Mesh, namespace::Netns};

/// A namespace's sockets of both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Neither closed nor in TIME-WAIT: listeners, connections, and what the kernel still closes.
    pub in_use: u64,
    pub time_wait: u64,
}

impl Sockets {
    /// The sockets in all pods: those of the applications and those that the daemons opened there.
    pub fn of_pods(mesh: &Mesh) -> Result<Self> {
        mesh.pods().iter().map(|pod| Self::of(&pod.netns)).sum()
    }

    fn of(netns: &Netns) -> Result<Self> {
        // Not /proc/net, which shows the namespace of the process's first thread.
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let both = || Ok::<_, io::Error>((read("sockstat")?, read("sockstat6")?));
        let (v4, v6) = netns.run(both)?.context("read a pod's socket counters")?;
        Self::parse(&v4, &v6).context("the kernel's socket counters are not as expected")
    }

    fn parse(v4: &str, v6: &str) -> Option<Self> {
        Some(Self {
            in_use: counter(v4, "TCP:", "inuse")? + counter(v6, "TCP6:", "inuse")?,
            // Counted once for both families.
            time_wait: counter(v4, "TCP:", "tw")?,
        })
    }
}

impl Add for Sockets {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            time_wait: self.time_wait + other.time_wait,
        }
    }
}

impl Sum for Sockets {
    fn sum<I: Iterator<Item = Self>>(sockets: I) -> Self {
        sockets.fold(Self::default(), Add::add)
    }
}

/// The number after `name` in the line that starts with `protocol`.
fn counter(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(protocol))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_both_families() {
        let v4 =
            "sockets: used 21\nTCP: inuse 5 orphan 0 tw 7 alloc 9 mem 141\nUDP: inuse 3 mem 0\n";
        let v6 = "TCP6: inuse 2\nUDP6: inuse 1\n";
        let sockets = Sockets {
            in_use: 7,
            time_wait: 7,
        };
        assert_eq!(Sockets::parse(v4, v6), Some(sockets));
    }

    #[test]
    fn counters_that_are_not_there_are_not_zero() {
        assert_eq!(
            Sockets::parse("TCP: inuse 5 tw 0\n", "UDP6: inuse 1\n"),
            None
        );
    }
}
