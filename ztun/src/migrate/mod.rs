//! Istio's policies of before 1.4 to today's: what `ztun policy migrate` prints.
//!
//! A translation never allows more than the original without saying so: what can't be carried over
//! is left out, which closes, and is reported with the reason.

mod destination_rule;
mod input;
mod legacy;
mod mutual_tls;
mod names;
mod origin;
mod policy;
mod rbac;
mod report;
mod services;

use std::sync::Arc;

use serde::Serialize;

use self::names::Names;
pub use self::{
    input::{Format, Input},
    origin::Origin,
    policy::{MigratedPolicy, Policy},
    report::{Entry, Outcome, Report},
};

#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the policies that were for the whole mesh go.
    pub root_namespace: Arc<str>,
    /// The end of services' names, such as `cluster.local`.
    pub cluster_domain: Arc<str>,
    pub layer7: Layer7,
}

/// What becomes of methods, paths and other attributes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer7 {
    /// They stay, with the meaning they had where a proxy looks into requests. At layer 4 a rule
    /// with any allows nobody.
    Keep,
    /// What is allowed loses them, so that it is more; whom it is allowed never does.
    Drop,
}

/// The policies of today, and what there is to say about them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Migration {
    pub policies: Vec<MigratedPolicy>,
    pub report: Report,
}

/// A migration under way.
#[derive(Debug, Default)]
struct Draft {
    names: Names,
    policies: Vec<MigratedPolicy>,
    report: Report,
}

/// Translates everything that was read. The result doesn't depend on the order of files and objects.
pub fn migrate(input: &Input, settings: &Settings) -> Migration {
    let mut draft = Draft::default();
    for existing in &input.existing {
        draft.names.reserve(existing);
    }
    for origin in &input.without_equivalent {
        draft.report.left_out(
            origin,
            "kind",
            "this kind has no equivalent and ztun doesn't know what it was for",
        );
    }
    mutual_tls::migrate(input, settings, &mut draft);
    destination_rule::report(input, &mut draft.report);
    rbac::migrate(input, settings, &mut draft);
    draft.report.sort();
    Migration {
        policies: draft.policies,
        report: draft.report,
    }
}

#[cfg(test)]
mod tests;
