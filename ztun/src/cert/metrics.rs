//! Metrics of certificates: requests counted as they happen, the rest read when somebody asks.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::{CaError, CertificateManager, keeper::Phase};

#[derive(Debug, Default)]
pub(super) struct RequestMetrics {
    requests: Counter,
    failures: Family<FailureLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug)]
struct CertificateCollector(Arc<CertificateManager>);

/// Registers the metrics of what `certificates` keeps.
pub fn register(registry: &mut Registry, certificates: &Arc<CertificateManager>) {
    let RequestMetrics { requests, failures } = certificates.request_metrics();
    registry.register(
        "ztun_certificate_requests",
        "Requests for a certificate made to the CA",
        requests.clone(),
    );
    registry.register(
        "ztun_certificate_failures",
        "Attempts to get a certificate that failed, by reason",
        failures.clone(),
    );
    registry.register_collector(Box::new(CertificateCollector(Arc::clone(certificates))));
}

impl RequestMetrics {
    pub(super) fn asked(&self) {
        self.requests.inc();
    }

    pub(super) fn failed(&self, error: &CaError) {
        let reason = error.label();
        self.failures.get_or_create(&FailureLabels { reason }).inc();
    }
}

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let phases = self.0.phases();
        let mut states = encoder.encode_descriptor(
            "ztun_certificates",
            "Identities of this node, by the state of their certificate",
            None,
            MetricType::Gauge,
        )?;
        for (state, phase) in [
            ("awaited", Phase::Awaited),
            ("valid", Phase::Valid),
            ("expiring", Phase::Expiring),
            ("expired", Phase::Expired),
        ] {
            let count = phases.iter().filter(|it| **it == phase).count();
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(states.encode_family(&StateLabels { state })?)?;
        }
        if let Some(left) = self.0.soonest_expiry() {
            ConstGauge::new(left.whole_seconds()).encode(encoder.encode_descriptor(
                "ztun_certificate_expiry",
                "Time until the certificate that expires next does; negative if it has expired",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}
