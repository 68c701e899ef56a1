//! One thing that a person should look at.

use std::{fmt, path::PathBuf};

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) file: PathBuf,
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) severity: Severity,
    pub(super) check: Check,
    /// Kind, namespace and name; empty where the text can't be read.
    pub(super) object: String,
    /// Such as `spec.rules[0]`; empty where the object as a whole is meant.
    pub(super) field: String,
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// It is not taken as it is written.
    Error,
    /// It is taken, and probably not meant.
    Warning,
}

/// What a finding is about, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    /// A file or document is not YAML.
    Unreadable,
    /// An object is not as it must be.
    Rejected,
    /// An object is there twice.
    Duplicate,
    /// A kind of former versions, without effect.
    Legacy,
    /// Attributes that can't be enforced at layer 4.
    Layer7,
    /// A namespace that isn't there.
    Namespace,
    /// A policy for no workload.
    Target,
    /// A policy for workloads that take no part in the mesh.
    NotEnrolled,
    /// A principal, namespace or service account that nobody has.
    Source,
    /// A port that nobody serves.
    Port,
    /// A rule or a policy without effect beside another.
    Shadowed,
    /// A policy without effect by itself.
    NoEffect,
    /// Two policies that decide the same.
    Tie,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: ", self.file.display(), self.line)?;
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}
