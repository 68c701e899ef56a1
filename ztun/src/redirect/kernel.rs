//! What capture needs of the running kernel, found by trying it.

mod probe;

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// A feature of the kernel, in the words of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    CgroupV2,
    Bpffs,
    Jit,
    ConnectPrograms,
    MarkInConnect,
    ListenerLookup,
    SockOps,
    CgroupLinks,
    SkLookup,
    NetnsLinks,
    IngressInterface,
    /// The daemon's own programs, which need all of it and socket storage.
    Programs,
}

/// What was found out about one feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum Finding {
    Found,
    /// With the kernel's reason.
    Missing(String),
    /// It could not be tried, for this reason.
    Unknown(String),
}

/// What was found out about the running kernel.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// As uname(2) has it.
    release: String,
    findings: Vec<(Feature, Finding)>,
}

/// The kernel can't do what capture needs; nothing was changed.
#[derive(Debug, Error)]
#[error(
    "this kernel ({release}) lacks what capture needs: {missing}; Linux 6.1 and newer have all of it, see `ztun node --check`"
)]
pub struct KernelError {
    release: String,
    missing: String,
}

impl Feature {
    pub const ALL: [Self; 12] = [
        Self::CgroupV2,
        Self::Bpffs,
        Self::Jit,
        Self::ConnectPrograms,
        Self::MarkInConnect,
        Self::ListenerLookup,
        Self::SockOps,
        Self::CgroupLinks,
        Self::SkLookup,
        Self::NetnsLinks,
        Self::IngressInterface,
        Self::Programs,
    ];

    pub fn description(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup v2, mounted",
            Self::Bpffs => "the file system for pins (bpffs)",
            Self::Jit => "programs run as machine code (BPF JIT)",
            Self::ConnectPrograms => "programs at connect() (cgroup/connect4 and 6)",
            Self::MarkInConnect => "SO_MARK set from cgroup/connect",
            Self::ListenerLookup => "listeners looked up from cgroup/connect",
            Self::SockOps => "programs at a connection's events (sock_ops)",
            Self::CgroupLinks => "links to cgroups",
            Self::SkLookup => "programs that choose a listener (sk_lookup)",
            Self::NetnsLinks => "links to network namespaces",
            Self::IngressInterface => "sk_lookup with ingress_ifindex",
            Self::Programs => "ztun's own programs",
        }
    }

    /// The first kernel that has it, where it is built in.
    pub fn since(self) -> &'static str {
        match self {
            Self::CgroupV2 => "4.5",
            Self::Bpffs => "4.4",
            Self::Jit => "3.0",
            Self::ConnectPrograms => "4.17",
            Self::SockOps => "4.13",
            Self::CgroupLinks => "5.7",
            Self::MarkInConnect | Self::ListenerLookup | Self::NetnsLinks => "5.8",
            Self::SkLookup => "5.9",
            Self::IngressInterface | Self::Programs => "5.17",
        }
    }

    /// Whether nothing works without it. An interpreted program captures as well, more slowly.
    pub fn is_required(self) -> bool {
        self != Self::Jit
    }
}

impl KernelReport {
    /// Tries every feature. Blocks for some milliseconds; nothing stays behind.
    pub fn of_this_kernel() -> Self {
        Self::of(&Feature::ALL)
    }

    /// As [`of_this_kernel`](Self::of_this_kernel), but for the daemon's own programs.
    pub fn of_features() -> Self {
        let [features @ .., Feature::Programs] = &Feature::ALL else {
            return Self::of_this_kernel();
        };
        Self::of(features)
    }

    /// An error that names everything that is missing and is required.
    pub fn require(&self) -> Result<(), KernelError> {
        let missing: Vec<String> = self
            .findings
            .iter()
            .filter(|(feature, _)| feature.is_required())
            .filter_map(|(feature, finding)| match finding {
                Finding::Missing(reason) => Some(format!(
                    "{} (since Linux {}: {reason})",
                    feature.description(),
                    feature.since()
                )),
                Finding::Found | Finding::Unknown(_) => None,
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(KernelError {
            release: self.release.clone(),
            missing: missing.join(", "),
        })
    }

    pub fn release(&self) -> &str {
        &self.release
    }

    pub fn findings(&self) -> &[(Feature, Finding)] {
        &self.findings
    }

    /// A report with these findings.
    pub fn new(release: &str, findings: impl IntoIterator<Item = (Feature, Finding)>) -> Self {
        Self {
            release: release.to_owned(),
            findings: findings.into_iter().collect(),
        }
    }

    fn of(features: &[Feature]) -> Self {
        let findings = features.iter();
        let findings = findings.map(|&feature| (feature, probe::probe(feature)));
        Self::new(&probe::release(), findings)
    }
}

/// One line a feature.
impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {}", self.release)?;
        for (feature, finding) in &self.findings {
            let (state, reason) = match finding {
                Finding::Found => ("found", None),
                Finding::Missing(reason) if feature.is_required() => ("MISSING", Some(reason)),
                Finding::Missing(reason) => ("missing, not required", Some(reason)),
                Finding::Unknown(reason) => ("unknown", Some(reason)),
            };
            let (description, since) = (feature.description(), feature.since());
            write!(f, "  {description} (Linux {since}): {state}")?;
            match reason {
                Some(reason) => writeln!(f, ": {reason}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn report(findings: &[(Feature, Finding)]) -> KernelReport {
        KernelReport::new("5.10.0-34-amd64", findings.to_vec())
    }

    fn missing() -> Finding {
        Finding::Missing("Permission denied (os error 13)".to_owned())
    }

    #[test]
    fn a_missing_feature_is_named_with_the_kernel_that_brought_it() {
        let report = report(&[
            (Feature::SkLookup, Finding::Found),
            (Feature::IngressInterface, missing()),
        ]);
        assert_eq!(
            report.require().unwrap_err().to_string(),
            "this kernel (5.10.0-34-amd64) lacks what capture needs: sk_lookup with \
             ingress_ifindex (since Linux 5.17: Permission denied (os error 13)); Linux 6.1 and \
             newer have all of it, see `ztun node --check`"
        );
        assert_eq!(
            report.to_string(),
            "kernel 5.10.0-34-amd64\n  programs that choose a listener (sk_lookup) (Linux 5.9): \
             found\n  sk_lookup with ingress_ifindex (Linux 5.17): MISSING: Permission denied (os \
             error 13)\n"
        );
    }

    #[test]
    fn every_missing_feature_is_named() {
        let all: Vec<_> = Feature::ALL.map(|feature| (feature, missing())).into();
        let message = report(&all).require().unwrap_err().to_string();
        for feature in Feature::ALL {
            let named = message.contains(feature.description());
            assert_eq!(named, feature.is_required(), "{feature:?}");
        }
    }

    #[test]
    fn what_is_wanted_alone_or_could_not_be_tried_does_not_hold_up_a_start() {
        let unknown = Finding::Unknown("run it as root".to_owned());
        let report = report(&[(Feature::Jit, missing()), (Feature::SkLookup, unknown)]);
        report.require().unwrap();
        let text = report.to_string();
        assert!(text.contains("missing, not required: Permission"), "{text}");
        assert!(text.contains("unknown: run it as root"), "{text}");
    }
}
