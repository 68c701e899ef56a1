//! What the CA counts.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use time::OffsetDateTime;

use super::refusal::Refusal;

#[derive(Clone, Debug)]
pub struct CaMetrics {
    issued: Counter,
    refused: Family<RuleLabels, Counter>,
    duration: Histogram,
    connections_refused: Family<ReasonLabels, Counter>,
    signer_expiry: Gauge,
    problems: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl CaMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            issued: Counter::default(),
            refused: Family::default(),
            // 0.5 ms to 4 s.
            duration: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            connections_refused: Family::default(),
            signer_expiry: Gauge::default(),
            problems: Gauge::default(),
        };
        registry.register(
            "ztun_ca_issued",
            "Certificates issued",
            metrics.issued.clone(),
        );
        // All rules are there from the start: a rate can be taken over the first refusal.
        for rule in Refusal::RULES {
            let _ = metrics.refused.get_or_create(&RuleLabels { rule });
        }
        registry.register(
            "ztun_ca_refused",
            "Requests refused, by the rule that refused them",
            metrics.refused.clone(),
        );
        registry.register(
            "ztun_ca_request_duration_seconds",
            "From a request's arrival to its answer",
            metrics.duration.clone(),
        );
        registry.register(
            "ztun_ca_connections_refused",
            "Connections that ended before a request",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "ztun_ca_signer_expiry_timestamp_seconds",
            "When the certificate that signs expires",
            metrics.signer_expiry.clone(),
        );
        registry.register(
            "ztun_ca_problems",
            "Files that can't be taken as they are now, whose last good version is in force",
            metrics.problems.clone(),
        );
        metrics
    }

    pub fn answered(&self, outcome: Result<(), &Refusal>, took: Duration) {
        match outcome {
            Ok(()) => self.issued.inc(),
            Err(refusal) => {
                let rule = refusal.rule();
                self.refused.get_or_create(&RuleLabels { rule }).inc()
            }
        };
        self.duration.observe(took.as_secs_f64());
    }

    pub fn connection_refused(&self, reason: &'static str) {
        let labels = ReasonLabels { reason };
        self.connections_refused.get_or_create(&labels).inc();
    }

    pub fn signer_expires(&self, at: OffsetDateTime) {
        self.signer_expiry.set(at.unix_timestamp());
    }

    pub fn problems(&self, count: usize) {
        self.problems.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
