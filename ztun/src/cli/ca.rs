//! `ztun ca`: the CA.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    ca,
    config::{CaConfig, ConfigFlags, ConfigSources},
    node::privileges,
    observe::LogFilter,
};

#[derive(Debug, Args)]
pub struct CaArgs {
    /// Validate the configuration, print it, and end
    #[arg(long)]
    check: bool,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", env = "ZTUN_CONFIG")]
    config: Option<PathBuf>,
    /// Trust domain of the identities that it signs for [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Directory of Kubernetes YAML that says which workloads are on which node [default: /etc/ztun/mesh]
    #[arg(long, value_name = "DIRECTORY")]
    mesh_directory: Option<String>,
    /// Directory of its own root, made at the first start [default: ca in the state directory]
    #[arg(long, value_name = "DIRECTORY")]
    ca_directory: Option<String>,
    /// Any other setting, such as authentication=staticTokens; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    let flags = ConfigFlags {
        config: args.config,
        trust_domain: args.trust_domain,
        mesh_directory: args.mesh_directory,
        ca_directory: args.ca_directory,
        settings: args.settings,
        ..ConfigFlags::default()
    };
    let config = CaConfig::load(ConfigSources::of_process(flags))?;
    if args.check {
        print!("{}", serde_norway::to_string(&config)?);
        return Ok(ExitCode::SUCCESS);
    }
    let privileges = privileges::restrict(&privileges::of_ca(&config))?;
    LogFilter::start(config.log_format, &config.log_filter)?;
    privileges.log();
    ca::run(config)?;
    Ok(ExitCode::SUCCESS)
}
