//! `ztun cni`: a chained CNI plugin (specification 1.0 and 1.1).
//!
//! It runs after the plugin that gives the pod its addresses, has the daemon capture the pod, and
//! passes the previous result through unchanged. If the pod can't be captured, ADD fails and with it
//! the pod's start: a pod never runs uncaptured because the daemon was away.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{self, ClientError};
use crate::{
    mesh::PodName,
    node::{
        api::{
            EnrolRequest, EnrolResponse, EnrolWhen, UnenrolRequest, UnenrolResponse, default_socket,
        },
        status::NodeStatus,
    },
    redirect::{CaptureState, PodSandbox, hierarchy},
};

const SUPPORTED: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// The plugin's network configuration, as the runtime gives it on stdin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkConfig {
    #[serde(default)]
    cni_version: String,
    /// The daemon's socket, if it isn't the default.
    #[serde(default = "default_socket")]
    socket: PathBuf,
    #[serde(default)]
    when: EnrolWhenInChain,
    /// Passed through byte by byte.
    prev_result: Option<Box<RawValue>>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
}

/// A plugin sees every pod of the node, so unlike `ztun enrol` it asks the mesh by default.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct EnrolWhenInChain(EnrolWhen);

/// What the runtime fills in for the capabilities that the configuration names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    /// Capability `cgroupPath`: relative to the cgroup v2 root, such as `/kubepods/pod…/…`.
    cgroup_path: Option<PathBuf>,
}

/// The pod and sandbox that a call is about.
#[derive(Debug, PartialEq, Eq)]
struct Attachment {
    pod: PodName,
    uid: String,
    sandbox_id: String,
}

/// A failure as the specification wants it: on stdout, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct CniError {
    cni_version: String,
    code: u32,
    msg: String,
    details: String,
}

/// Error codes of the specification, section "Error".
mod code {
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN_LATER: u32 = 11;
    pub const UNAVAILABLE: u32 = 50;
    /// Ours: the daemon refused.
    pub const REFUSED: u32 = 100;
    /// Ours: CHECK found the pod not captured.
    pub const NOT_CAPTURED: u32 = 101;
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub fn run() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let environment = |variable: &str| std::env::var(variable).ok();
    let result = match read {
        Ok(_) => answer(&environment, &input),
        Err(error) => Err(failure(code::DECODE, "cannot read stdin", error)),
    };
    let (output, exit) = match result {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (
            serde_json::to_string(&error).unwrap_or_default(),
            ExitCode::FAILURE,
        ),
    };
    // A runtime that closed its end has stopped caring about the answer.
    let _ = writeln!(std::io::stdout(), "{output}");
    exit
}

/// What goes to stdout; empty for calls that have no result.
fn answer(environment: Environment<'_>, input: &str) -> Result<String, CniError> {
    let command = required(environment, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(version());
    }
    let config: NetworkConfig = serde_json::from_str(input)
        .map_err(|error| failure(code::DECODE, "cannot read the network configuration", error))?;
    let in_version = |mut error: CniError| {
        error.cni_version.clone_from(&config.cni_version);
        error
    };
    if !SUPPORTED.contains(&config.cni_version.as_str()) {
        return Err(failure(
            1,
            "unsupported CNI version",
            format!(
                "cniVersion is `{}`; supported: {}",
                config.cni_version,
                SUPPORTED.join(", ")
            ),
        ));
    }
    let result = match command.as_str() {
        "ADD" => add(environment, &config),
        "DEL" => del(environment, &config),
        "CHECK" => check(environment, &config),
        "STATUS" => status(&config).map(|_| String::new()),
        // The daemon itself releases pods whose network namespace is gone; one that still exists
        // is not to be let go on hearsay.
        "GC" => Ok(String::new()),
        other => Err(failure(
            code::INVALID_ENVIRONMENT,
            "unknown CNI_COMMAND",
            format!("`{other}` is none of ADD, DEL, CHECK, VERSION, STATUS, GC"),
        )),
    };
    result.map_err(in_version)
}

fn version() -> String {
    serde_json::json!({"cniVersion": SUPPORTED.last(), "supportedVersions": SUPPORTED}).to_string()
}

fn add(environment: Environment<'_>, config: &NetworkConfig) -> Result<String, CniError> {
    let previous = config.prev_result.as_ref().ok_or_else(|| {
        failure(
            code::INVALID_CONFIG,
            "no prevResult",
            "ztun is a chained plugin: put it after the one that gives the pod its addresses",
        )
    })?;
    let attachment = attachment(environment)?;
    let netns = PathBuf::from(required(environment, "CNI_NETNS")?);
    let request = EnrolRequest {
        sandbox: PodSandbox {
            cgroup: pod_cgroup(config, &attachment)?,
            pod: attachment.pod,
            uid: attachment.uid,
            sandbox_id: attachment.sandbox_id,
            netns,
        },
        when: config.when.0,
    };
    let _: EnrolResponse =
        client::call(&config.socket, Method::POST, "/v1/pods", &request).map_err(daemon_failure)?;
    Ok(previous.get().to_owned())
}

/// Succeeds also when there is nothing (left) to release: runtimes call DEL more than once.
fn del(environment: Environment<'_>, config: &NetworkConfig) -> Result<String, CniError> {
    let attachment = attachment(environment)?;
    let request = UnenrolRequest {
        pod: attachment.pod,
        sandbox_id: Some(attachment.sandbox_id),
    };
    let _: UnenrolResponse = client::call(&config.socket, Method::DELETE, "/v1/pods", &request)
        .map_err(daemon_failure)?;
    Ok(String::new())
}

fn check(environment: Environment<'_>, config: &NetworkConfig) -> Result<String, CniError> {
    let attachment = attachment(environment)?;
    let status = status(config)?;
    let pod = status.pods.iter().find(|known| known.pod == attachment.pod);
    match (pod.map(|pod| &pod.capture), config.when.0) {
        (Some(CaptureState::Captured), _) | (None, EnrolWhen::InMesh) => Ok(String::new()),
        (Some(CaptureState::NotCaptured { why }), _) => {
            Err(failure(code::NOT_CAPTURED, "the pod is not captured", why))
        }
        (None, EnrolWhen::Always) => Err(failure(
            code::NOT_CAPTURED,
            "the pod is not captured",
            format!("{} is not enrolled on this node", attachment.pod),
        )),
    }
}

fn status(config: &NetworkConfig) -> Result<NodeStatus, CniError> {
    client::call(&config.socket, Method::GET, "/v1/status", &())
        .map_err(|error| failure(code::UNAVAILABLE, "the daemon is not available", error))
}

fn attachment(environment: Environment<'_>) -> Result<Attachment, CniError> {
    let text = required(environment, "CNI_ARGS")?;
    let argument = |key: &str| {
        text.split(';')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(name, value)| (name == key && !value.is_empty()).then_some(value))
    };
    let needed = |key: &'static str| {
        argument(key).ok_or_else(|| {
            failure(
                code::INVALID_ENVIRONMENT,
                "CNI_ARGS names no pod",
                format!("{key} is missing in `{text}`; a Kubernetes container runtime sets it"),
            )
        })
    };
    Ok(Attachment {
        pod: PodName::new(needed("K8S_POD_NAMESPACE")?, needed("K8S_POD_NAME")?),
        uid: argument("K8S_POD_UID").unwrap_or_default().to_owned(),
        sandbox_id: required(environment, "CNI_CONTAINERID")?,
    })
}

/// From the runtime's `cgroupPath` capability where it has that, else by the pod's UID.
fn pod_cgroup(config: &NetworkConfig, attachment: &Attachment) -> Result<PathBuf, CniError> {
    let root = hierarchy::root()
        .map_err(|error| failure(code::INVALID_CONFIG, "no cgroup v2 on this node", error))?;
    if let Some(path) = &config.runtime_config.cgroup_path {
        return Ok(root.join(path.strip_prefix("/").unwrap_or(path)));
    }
    hierarchy::of_pod(&root, &attachment.uid).ok_or_else(|| {
        failure(
            code::INVALID_CONFIG,
            "the pod's cgroup was not found",
            format!(
                "no directory under {} names the pod UID `{}`; give the runtime the capability cgroupPath",
                root.display(),
                attachment.uid
            ),
        )
    })
}

fn required(environment: Environment<'_>, variable: &str) -> Result<String, CniError> {
    environment(variable)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            failure(
                code::INVALID_ENVIRONMENT,
                "a variable is missing",
                format!("{variable} is not set; this command is called by a container runtime"),
            )
        })
}

fn daemon_failure(error: ClientError) -> CniError {
    if error.is_temporary() {
        failure(code::TRY_AGAIN_LATER, "try again later", error)
    } else {
        failure(code::REFUSED, "the pod can't be captured", error)
    }
}

fn failure(code: u32, msg: &str, details: impl std::fmt::Display) -> CniError {
    CniError {
        cni_version: "1.1.0".to_owned(),
        code,
        msg: msg.to_owned(),
        details: details.to_string(),
    }
}

impl Default for EnrolWhenInChain {
    fn default() -> Self {
        Self(EnrolWhen::InMesh)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn environment(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |variable| {
            pairs
                .iter()
                .find(|(name, _)| *name == variable)
                .map(|(_, value)| (*value).to_owned())
        }
    }

    const POD: &[(&str, &str)] = &[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=foo;K8S_POD_NAME=bar;K8S_POD_UID=u1",
        ),
    ];

    #[test]
    fn version_lists_what_is_supported_and_needs_no_configuration() {
        let output = answer(&environment(&[("CNI_COMMAND", "VERSION")]), "").unwrap();
        let output: serde_json::Value = serde_json::from_str(&output).unwrap();
        assert_eq!(output["cniVersion"], "1.1.0");
        assert_eq!(output["supportedVersions"], serde_json::json!(SUPPORTED));
    }

    #[test]
    fn the_pod_is_read_from_the_kubernetes_arguments() {
        assert_eq!(
            attachment(&environment(POD)).unwrap(),
            Attachment {
                pod: PodName::new("foo", "bar"),
                uid: "u1".to_owned(),
                sandbox_id: "c1".to_owned(),
            }
        );
    }

    #[test]
    fn add_without_a_previous_result_is_a_configuration_error() {
        let error =
            answer(&environment(POD), r#"{"cniVersion":"1.0.0","type":"ztun"}"#).unwrap_err();
        assert_eq!((error.code, error.cni_version.as_str()), (7, "1.0.0"));
        assert!(error.details.contains("chained"), "{error:?}");
    }

    #[test]
    fn a_version_from_the_future_is_refused_by_name() {
        let error = answer(&environment(POD), r#"{"cniVersion":"2.0.0"}"#).unwrap_err();
        assert_eq!(error.code, 1);
        assert!(error.details.contains("2.0.0"), "{error:?}");
    }

    #[test]
    fn a_daemon_that_is_down_means_try_again_later() {
        let input = r#"{"cniVersion":"1.0.0","socket":"/nonexistent/ztun.sock","prevResult":{},
            "runtimeConfig":{"cgroupPath":"/kubepods/pod1"}}"#;
        let error = answer(&environment(POD), input).unwrap_err();
        assert_eq!(error.code, 11);
        assert!(
            error.details.contains("/nonexistent/ztun.sock"),
            "{error:?}"
        );
    }

    #[test]
    fn missing_arguments_are_named() {
        let error = attachment(&environment(&[
            ("CNI_CONTAINERID", "c1"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=foo"),
        ]))
        .unwrap_err();
        assert_eq!(error.code, 4);
        assert!(error.details.contains("K8S_POD_NAME"), "{error:?}");
    }
}
