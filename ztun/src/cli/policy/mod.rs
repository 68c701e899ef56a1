//! `ztun policy`: what can be told of policies before they are in force.

mod lint;
mod migrate;
mod simulate;

use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Find what is wrong with the policies of a directory, without a daemon
    Lint(lint::LintArgs),
    /// Translate Istio's policies of before 1.4 into today's, and list what has no equivalent
    Migrate(migrate::MigrateArgs),
    /// Tell which recorded connections proposed policies would newly deny or allow
    Simulate(simulate::SimulateArgs),
}

pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Lint(args) => lint::run(args),
        PolicyCommand::Migrate(args) => migrate::run(args),
        PolicyCommand::Simulate(args) => simulate::run(args),
    }
}
