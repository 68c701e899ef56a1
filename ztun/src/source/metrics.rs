//! What a source counts, read when somebody asks.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::FileSource;

pub fn register_metrics(registry: &mut Registry, source: Arc<FileSource>) {
    registry.register_collector(Box::new(SourceCollector(source)));
}

#[derive(Debug)]
struct SourceCollector(Arc<FileSource>);

impl Collector for SourceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rejected = ConstCounter::new(self.0.rejected());
        rejected.encode(encoder.encode_descriptor(
            "ztun_source_rejected",
            "Objects and files of the mesh source that were not taken since the start",
            None,
            MetricType::Counter,
        )?)?;
        let problems = ConstGauge::new(i64::try_from(self.0.problems().len()).unwrap_or(i64::MAX));
        problems.encode(encoder.encode_descriptor(
            "ztun_source_problems",
            "Problems that the mesh source has now; its log has each",
            None,
            MetricType::Gauge,
        )?)?;
        let as_of = ConstGauge::new(self.0.as_of().unix_timestamp());
        as_of.encode(encoder.encode_descriptor(
            "ztun_source_last_success_timestamp_seconds",
            "When the mesh source could last be read, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?)
    }
}
