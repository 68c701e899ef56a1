//! Calls the CNI plugin the way a container runtime does.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{daemon, pod::Pod};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniCommand {
    Add,
    Del,
    Check,
}

/// Which pods the plugin captures, as its network configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Those that the mesh directory has in the mesh: the plugin's own default.
    InMesh,
    Always,
}

impl CniCommand {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
        }
    }
}

/// Runs `ztun cni` for `pod`; answers what it printed, which is nothing for DEL and CHECK.
pub async fn call(
    command: CniCommand,
    when: When,
    pod: &Pod,
    socket: &Path,
) -> Result<Option<Value>> {
    let configuration = configuration(when, pod, socket)?;
    let output = run(command, pod, &configuration.to_string()).await?;
    result(&output).with_context(|| format!("CNI {} of {}", command.name(), pod.path()))
}

/// The network configuration that a runtime gives the plugin.
pub fn configuration(when: When, pod: &Pod, socket: &Path) -> Result<Value> {
    let mut configuration = json!({
        "cniVersion": "1.1.0",
        "name": "harness",
        "type": "ztun",
        "socket": socket,
        "runtimeConfig": { "cgroupPath": pod.cgroup.path_in_hierarchy()? },
        "prevResult": previous_result(pod),
    });
    if when == When::Always {
        configuration["when"] = json!("always");
    }
    Ok(configuration)
}

/// The result of the plugin before ours in the chain, which ours must pass through.
pub fn previous_result(pod: &Pod) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "eth0", "sandbox": pod.netns.path() }],
        "ips": [
            { "interface": 0, "address": format!("{}/24", pod.v4) },
            { "interface": 0, "address": format!("{}/64", pod.v6) },
        ],
    })
}

/// A pod in another network namespace is another container to the runtime.
fn container(pod: &Pod) -> String {
    let netns = pod.netns.path().file_name().unwrap_or_default();
    format!("container-{}", netns.to_string_lossy())
}

/// Runs the plugin for `pod` with `configuration` on its standard input, whatever comes of it.
pub async fn run(command: CniCommand, pod: &Pod, configuration: &str) -> Result<Output> {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={};K8S_POD_INFRA_CONTAINER_ID={}",
        pod.spec.namespace,
        pod.spec.name,
        pod.uid,
        container(pod),
    );
    let mut process = Command::new(daemon::binary()?)
        .arg("cni")
        .env("CNI_COMMAND", command.name())
        .env("CNI_CONTAINERID", container(pod))
        .env("CNI_NETNS", pod.netns.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", arguments)
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the plugin")?;
    let mut input = process.stdin.take().context("no standard input")?;
    let written = input.write_all(configuration.as_bytes()).await;
    drop(input);
    let output = process.wait_with_output().await?;
    if output.status.success() {
        written.context("the plugin did not read its configuration")?;
    }
    Ok(output)
}

fn result(output: &Output) -> Result<Option<Value>> {
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {} {}", output.status, printed.trim(), log.trim());
    }
    if printed.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&printed)
        .with_context(|| format!("the plugin printed no JSON: {printed}"))
        .map(Some)
}
