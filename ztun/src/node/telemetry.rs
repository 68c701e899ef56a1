//! Metrics that are read where they live, when somebody asks: the kernel's counters and the source's.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::pods::Pods;
use crate::{cert::Trust, source::FileSource};

/// Registers the metrics of the node's pods, of its source and of whom it trusts.
pub fn register(
    registry: &mut Registry,
    pods: Arc<Pods>,
    source: Arc<FileSource>,
    trust: Arc<Trust>,
) {
    registry.register_collector(Box::new(NodeCollector {
        pods,
        source,
        trust,
    }));
}

#[derive(Debug)]
struct NodeCollector {
    pods: Arc<Pods>,
    source: Arc<FileSource>,
    trust: Arc<Trust>,
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
        let rejected = ConstCounter::new(self.source.rejected());
        rejected.encode(encoder.encode_descriptor(
            "ztun_source_rejected",
            "Objects and files of the mesh source that were not taken since the start",
            None,
            MetricType::Counter,
        )?)?;
        let problems =
            ConstGauge::new(i64::try_from(self.source.problems().len()).unwrap_or(i64::MAX));
        problems.encode(encoder.encode_descriptor(
            "ztun_source_problems",
            "Problems that the mesh source has now; ztun status lists them",
            None,
            MetricType::Gauge,
        )?)?;
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
