//! `ztun policy lint`: problems in the policies of a directory, found without a daemon.

mod checks;
mod directory;
mod finding;
mod inventory;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use self::{
    directory::Directory,
    finding::{Finding, Severity},
};
use crate::{cli::Output, mesh::TrustDomain, source::kubernetes_objects::ReadContext};

#[derive(Debug, Args)]
pub struct LintArgs {
    /// A directory of YAML and JSON files, subdirectories included: policies, and for more checks
    /// the workloads, services and namespaces that they are for
    directory: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The mesh's trust domain
    #[arg(long, env = "ZTUN_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// The namespace whose policies cover the mesh
    #[arg(long, env = "ZTUN_ROOT_NAMESPACE", default_value = "istio-system")]
    root_namespace: Arc<str>,
}

/// What was found in a directory.
#[derive(Debug)]
struct Report {
    policies: usize,
    findings: Vec<Finding>,
}

/// Fails if there are errors; warnings don't count.
pub fn run(args: &LintArgs) -> anyhow::Result<ExitCode> {
    let report = lint(args)?;
    match args.output {
        Output::Json => {
            let json = json!({"policies": report.policies, "findings": report.findings});
            println!("{}", serde_json::to_string_pretty(&json)?);
        }
        Output::Table => print!("{report}"),
    }
    Ok(if report.count(Severity::Error) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn lint(args: &LintArgs) -> anyhow::Result<Report> {
    let context = ReadContext {
        trust_domain: &args.trust_domain,
        root_namespace: &args.root_namespace,
    };
    let mut directory = Directory::read(&args.directory, context)
        .with_context(|| format!("read the directory {}", args.directory.display()))?;
    let mut findings = std::mem::take(&mut directory.findings);
    findings.extend(checks::run(&directory, context));
    findings.sort();
    findings.dedup();
    Ok(Report {
        policies: directory.policies().count(),
        findings,
    })
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let errors = self.count(Severity::Error);
        let warnings = self.count(Severity::Warning);
        writeln!(
            f,
            "readable policies: {}; errors: {errors}; warnings: {warnings}",
            self.policies
        )
    }
}

#[cfg(test)]
mod tests;
