//! `ztun node`: the daemon.

use std::process::ExitCode;

use clap::Args;

use crate::{
    config::{Config, ConfigFlags, ConfigSources},
    node::{self, privileges},
    observe::LogFilter,
    redirect::KernelReport,
};

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Validate the configuration, try what capture needs of this kernel, print both, and end
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(ConfigSources::of_process(args.flags))?;
    if args.check {
        print!("{}", serde_norway::to_string(&config)?);
        let kernel = KernelReport::of_this_kernel();
        // As comments: all of it is a configuration file still.
        for line in kernel.to_string().lines() {
            println!("# {line}");
        }
        kernel.require()?;
        return Ok(ExitCode::SUCCESS);
    }
    let privileges = privileges::restrict(&privileges::of_node(&config))?;
    let log = LogFilter::start(config.log_format, &config.log_filter)?;
    node::run(config, privileges, log)?;
    Ok(ExitCode::SUCCESS)
}
