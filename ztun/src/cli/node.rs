//! `ztun node`: the daemon.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Args;

use crate::{
    config::{Config, ConfigFlags, ConfigSources, LogFormat},
    node,
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
    start_logging(&config)?;
    node::run(config)?;
    Ok(ExitCode::SUCCESS)
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&config.log_filter)?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
