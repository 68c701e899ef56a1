//! Metrics that are read where they live, when somebody asks: the kernel's counters.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

use super::pods::Pods;

/// Registers the metrics of the node's pods.
pub fn register(registry: &mut Registry, pods: Arc<Pods>) {
    registry.register_collector(Box::new(NodeCollector { pods }));
}

#[derive(Debug)]
struct NodeCollector {
    pods: Arc<Pods>,
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
        for (pod, counts) in self.pods.verdicts() {
            for (verdict, count) in counts {
                let labels = VerdictLabels {
                    namespace: pod.namespace.to_string(),
                    pod: pod.name.to_string(),
                    verdict: verdict.name(),
                };
                ConstCounter::new(count).encode(verdicts.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
