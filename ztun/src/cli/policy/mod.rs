//! `ztun policy`: what can be told of policies before they are in force.

mod migrate;

use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Translate Istio's policies of before 1.4 into today's, and list what has no equivalent
    Migrate(migrate::MigrateArgs),
}

pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Migrate(args) => migrate::run(args),
    }
}
