//! Metrics that are read where they live, when somebody asks: the kernel's counters.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{pods::Pods, verification::Verification};

/// Registers the metrics of the node's pods.
pub fn register(registry: &mut Registry, pods: Arc<Pods>, verification: Arc<Verification>) {
    verification.register(registry);
    registry.register_collector(Box::new(NodeCollector { pods, verification }));
}

#[derive(Debug)]
struct NodeCollector {
    pods: Arc<Pods>,
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
