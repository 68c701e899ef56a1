//! Metrics that are read where they live, when somebody asks: the kernel's counters.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{credentials::Credentials, pods::Pods, verification::Verification};
use crate::{
    cert::{self, Trust},
    observe::Metrics,
    source::{self, file::FileSource},
};

/// All metrics of the daemon.
pub fn registry(
    metrics: &Metrics,
    source: &Arc<FileSource>,
    credentials: &Credentials,
    verification: &Arc<Verification>,
) -> Registry {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    verification.register(&mut registry);
    registry.register_collector(Box::new(NodeCollector {
        pods: verification.pods().clone(),
        trust: credentials.trust.clone(),
        verification: verification.clone(),
    }));
    source::register_metrics(&mut registry, source.clone());
    cert::metrics::register(&mut registry, &credentials.certificates);
    registry
}

#[derive(Debug)]
struct NodeCollector {
    pods: Arc<Pods>,
    trust: Arc<Trust>,
    verification: Arc<Verification>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// A pod's series end with its enrolment, and begin at 0 when it is captured anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    namespace: String,
    pod: String,
    verdict: &'static str,
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let trust = ConstGauge::new(i64::try_from(self.trust.problems()).unwrap_or(i64::MAX));
        trust.encode(encoder.encode_descriptor(
            "ztun_trust_problems",
            "Files of roots, bundles and revocation lists that can't be taken as they are now; ztun status lists them",
            None,
            MetricType::Gauge,
        )?)?;
        if let Some(at) = self.trust.oldest_crl() {
            ConstGauge::new(at.unix_timestamp()).encode(encoder.encode_descriptor(
                "ztun_crl_this_update_seconds",
                "When the oldest revocation list in force was made, in seconds since 1970",
                None,
                MetricType::Gauge,
            )?)?;
        }
        let mut verdicts = encoder.encode_descriptor(
            "ztun_kernel_verdicts",
            "Verdicts of the kernel programs, by pod",
            None,
            MetricType::Counter,
        )?;
        let enrolled = self.pods.verdicts();
        for (pod, counts) in &enrolled {
            for (verdict, count) in counts {
                let labels = VerdictLabels {
                    namespace: pod.namespace.to_string(),
                    pod: pod.name.to_string(),
                    verdict: verdict.name(),
                };
                ConstCounter::new(*count).encode(verdicts.encode_family(&labels)?)?;
            }
        }
        let uncaptured = self.verification.uncaptured().len();
        let mut pods = encoder.encode_descriptor(
            "ztun_pods",
            "Enrolled pods, by whether the kernel captured them when it was last looked",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [
            ("captured", enrolled.len().saturating_sub(uncaptured)),
            ("not_captured", uncaptured),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(pods.encode_family(&StateLabels { state })?)?;
        }
        Ok(())
    }
}
