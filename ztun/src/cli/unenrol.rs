//! `ztun unenrol`: let go of a pod.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use http::Method;

use super::{Daemon, client, enrol::pod_name};
use crate::{
    mesh::PodName,
    node::api::{UnenrolRequest, UnenrolResponse},
};

#[derive(Debug, Args)]
pub struct UnenrolArgs {
    /// The pod; its traffic is neither captured nor encrypted from now on, whatever its labels say
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pod: PodName,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: UnenrolArgs) -> anyhow::Result<ExitCode> {
    let request = UnenrolRequest {
        pod: args.pod,
        sandbox_id: None,
    };
    match client::call(&args.daemon.socket, Method::DELETE, "/v1/pods", &request)? {
        UnenrolResponse::Released => println!("{} is no longer captured", request.pod),
        UnenrolResponse::NotEnrolled => bail!(
            "{} is not enrolled on this node; `ztun status` lists the pods that are",
            request.pod
        ),
    }
    Ok(ExitCode::SUCCESS)
}
