//! `ztun dump`: what the daemon was told, in full.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::Value;

use super::{Daemon, client};

#[derive(Debug, Args)]
pub struct DumpArgs {
    /// What to print, as YAML
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The configuration in force, with every default
    Config,
    /// Workloads, services and policies as the daemon sees them now
    Mesh,
}

pub fn run(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let path = match args.what {
        What::Config => "/v1/config",
        What::Mesh => "/v1/mesh",
    };
    let value: Value = client::call(&args.daemon.socket, Method::GET, path, &())?;
    print!("{}", serde_norway::to_string(&value)?);
    Ok(ExitCode::SUCCESS)
}
