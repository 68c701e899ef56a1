//! `ztun enrol`: capture a pod, by hand or from a script.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use http::Method;

use super::{Daemon, client};
use crate::{
    mesh::PodName,
    node::api::{EnrolRequest, EnrolResponse, EnrolWhen},
    redirect::PodSandbox,
};

#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// The pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pod: PodName,
    /// Its network namespace, such as /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// Its cgroup v2 directory
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// Its UID in Kubernetes
    #[arg(long, default_value = "")]
    uid: String,
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(args: &EnrolArgs) -> anyhow::Result<ExitCode> {
    // The daemon has another working directory: paths go to it absolute.
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("resolve {}", path.display()))
    };
    let request = EnrolRequest {
        sandbox: PodSandbox {
            pod: args.pod.clone(),
            uid: args.uid.clone(),
            sandbox_id: String::new(),
            netns: absolute(&args.netns)?,
            cgroup: absolute(&args.cgroup)?,
        },
        when: EnrolWhen::Always,
    };
    let response: EnrolResponse =
        client::call(&args.daemon.socket, Method::POST, "/v1/pods", &request)?;
    if let EnrolResponse::Enrolled { addresses } = response {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        println!("{} is captured ({})", args.pod, addresses.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// `namespace/name`, as `kubectl` prints it.
pub fn pod_name(text: &str) -> Result<PodName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(PodName::new(namespace, name))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}
