//! `ztun verify`: whether this kernel has what capture needs, and whether each pod is captured.

use std::{fmt, process::ExitCode};

use clap::Args;
use http::Method;
use serde::Serialize;

use super::{Daemon, Output, client, enrol::pod_name, table::Table};
use crate::{
    mesh::PodName,
    node::status::PodStatus,
    redirect::{CaptureState, Feature, Finding, KernelReport},
};

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pod: Option<PodName>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    daemon: Daemon,
}

/// What was found out. Nothing of it is remembered by the daemon: it reads the kernel's state anew.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    /// Empty if everything is as it should be.
    problems: Vec<String>,
    kernel: String,
    features: Vec<FeatureReport>,
    pods: Vec<PodReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureReport {
    feature: Feature,
    since: &'static str,
    required: bool,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Debug, Serialize)]
struct PodReport {
    pod: PodName,
    capture: CaptureState,
}

pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let kernel = KernelReport::of_this_kernel();
    let pods: Result<Vec<PodStatus>, _> =
        client::call(&args.daemon.socket, Method::GET, "/v1/verification", &());
    let pods = pods.map_err(|error| format!("no pod could be verified: {error}"));
    let verification = Verification::new(&kernel, pods, args.pod.as_ref());
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&verification)?),
        Output::Table => print!("{kernel}\n{verification}"),
    }
    Ok(if verification.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Verification {
    fn new(
        kernel: &KernelReport,
        pods: Result<Vec<PodStatus>, String>,
        only: Option<&PodName>,
    ) -> Self {
        let mut problems = Vec::new();
        for (feature, finding) in kernel.findings() {
            if let (true, Some(problem)) = (feature.is_required(), problem_of(*feature, finding)) {
                problems.push(problem);
            }
        }
        let features = kernel.findings().iter();
        let features = features.map(|(feature, finding)| FeatureReport {
            feature: *feature,
            since: feature.since(),
            required: feature.is_required(),
            finding: finding.clone(),
        });
        let pods = match pods {
            Ok(pods) => wanted(pods, only, &mut problems),
            Err(problem) => {
                problems.push(problem);
                Vec::new()
            }
        };
        Self {
            problems,
            kernel: kernel.release().to_owned(),
            features: features.collect(),
            pods,
        }
    }
}

/// The pods that were asked for, and what is wrong with them.
fn wanted(
    pods: Vec<PodStatus>,
    only: Option<&PodName>,
    problems: &mut Vec<String>,
) -> Vec<PodReport> {
    let is_wanted = |pod: &PodStatus| only.is_none_or(|only| pod.pod == *only);
    let pods: Vec<PodReport> = pods
        .into_iter()
        .filter(is_wanted)
        .map(|PodStatus { pod, capture, .. }| PodReport { pod, capture })
        .collect();
    for PodReport { pod, capture } in &pods {
        if let CaptureState::NotCaptured { why } = capture {
            problems.push(format!("{pod} is not captured: {why}"));
        }
    }
    if let (Some(only), []) = (only, &pods[..]) {
        problems.push(format!(
            "{only} is not captured: the daemon knows no such pod on this node"
        ));
    }
    pods
}

/// What could not be tried is not verified either.
fn problem_of(feature: Feature, finding: &Finding) -> Option<String> {
    let (feature, since) = (feature.description(), feature.since());
    match finding {
        Finding::Found => None,
        Finding::Missing(reason) => Some(format!(
            "the kernel lacks {feature} (since Linux {since}): {reason}"
        )),
        Finding::Unknown(reason) => Some(format!("{feature} could not be tried: {reason}")),
    }
}

/// The pods and the verdict, for people.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pods.is_empty() {
            let mut table = Table::new(["POD", "CAPTURE"]);
            for PodReport { pod, capture } in &self.pods {
                table.row([pod.to_string(), capture.to_string()]);
            }
            writeln!(f, "{table}")?;
        }
        if self.problems.is_empty() {
            return writeln!(f, "verified: pods captured: {}", self.pods.len());
        }
        writeln!(f, "NOT VERIFIED:")?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kernel(ingress_interface: Finding) -> KernelReport {
        let slow = Finding::Missing("interpreted".to_owned());
        KernelReport::new(
            "6.12.107",
            [
                (Feature::Jit, slow),
                (Feature::IngressInterface, ingress_interface),
            ],
        )
    }

    fn pod(name: &str, capture: CaptureState) -> PodStatus {
        PodStatus {
            pod: PodName::new("shop", name),
            addresses: Vec::new(),
            capture,
            verdicts: std::collections::BTreeMap::new(),
            problem: None,
            workload: None,
            identity: None,
        }
    }

    fn pods() -> Vec<PodStatus> {
        let why = "the rule for captured packets is missing".to_owned();
        vec![
            pod("cart", CaptureState::Captured),
            pod("stock", CaptureState::NotCaptured { why }),
        ]
    }

    #[test]
    fn a_node_whose_pods_are_all_captured_is_verified() {
        let cart = PodName::new("shop", "cart");
        let verification = Verification::new(&kernel(Finding::Found), Ok(pods()), Some(&cart));
        assert_eq!(
            verification.to_string(),
            "POD        CAPTURE\nshop/cart  captured\n\nverified: pods captured: 1\n"
        );
    }

    #[test]
    fn each_pod_that_is_not_captured_is_named_with_the_reason() {
        let verification = Verification::new(&kernel(Finding::Found), Ok(pods()), None);
        let problem = "shop/stock is not captured: the rule for captured packets is missing";
        assert_eq!(verification.problems, [problem]);
        let text = verification.to_string();
        assert!(
            text.ends_with(&format!("NOT VERIFIED:\n  {problem}\n")),
            "{text}"
        );
        assert_eq!(
            serde_json::to_value(&verification).unwrap(),
            json!({
                "problems": [problem],
                "kernel": "6.12.107",
                "features": [
                    { "feature": "jit", "since": "3.0", "required": false,
                      "state": "missing", "reason": "interpreted" },
                    { "feature": "ingress-interface", "since": "5.17", "required": true,
                      "state": "found" },
                ],
                "pods": [
                    { "pod": { "namespace": "shop", "name": "cart" },
                      "capture": { "state": "captured" } },
                    { "pod": { "namespace": "shop", "name": "stock" },
                      "capture": { "state": "notCaptured",
                                   "why": "the rule for captured packets is missing" } },
                ],
            })
        );
    }

    #[test]
    fn a_pod_that_the_daemon_does_not_know_is_not_captured() {
        let other = PodName::new("shop", "other");
        let verification = Verification::new(&kernel(Finding::Found), Ok(pods()), Some(&other));
        assert_eq!(
            verification.problems,
            ["shop/other is not captured: the daemon knows no such pod on this node"]
        );
    }

    #[test]
    fn what_is_missing_or_could_not_be_tried_is_a_problem_if_it_is_required() {
        for (finding, problem) in [
            (
                Finding::Missing("EACCES".to_owned()),
                "the kernel lacks sk_lookup with ingress_ifindex (since Linux 5.17): EACCES",
            ),
            (
                Finding::Unknown("it takes root".to_owned()),
                "sk_lookup with ingress_ifindex could not be tried: it takes root",
            ),
        ] {
            let verification = Verification::new(&kernel(finding), Ok(Vec::new()), None);
            assert_eq!(verification.problems, [problem]);
        }
    }

    #[test]
    fn without_a_daemon_nothing_is_verified() {
        let unreachable = Err("no daemon answers".to_owned());
        let cart = PodName::new("shop", "cart");
        let verification = Verification::new(&kernel(Finding::Found), unreachable, Some(&cart));
        assert_eq!(
            verification.to_string(),
            "NOT VERIFIED:\n  no daemon answers\n"
        );
    }
}
