//! `ztun log`: shows or changes the daemon's log filter, until it ends.

use std::process::ExitCode;

use clap::Args;
use http::Method;

use super::{Daemon, client};
use crate::node::api::LogFilterBody;

#[derive(Debug, Args)]
pub struct LogArgs {
    /// The new filter, such as `info,ztun::proxy=debug`; without it, the one in force is printed
    filter: Option<String>,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: LogArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.daemon.socket;
    let path = "/v1/log-filter";
    let in_force: LogFilterBody = match args.filter {
        Some(filter) => client::call(socket, Method::PUT, path, &LogFilterBody { filter })?,
        None => client::call(socket, Method::GET, path, &())?,
    };
    println!("{}", in_force.filter);
    Ok(ExitCode::SUCCESS)
}
