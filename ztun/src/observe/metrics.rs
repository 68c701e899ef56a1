//! Counters of the data path. Handles are resolved once a connection, never once a packet.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    flow::{Flow, ResponseFlag},
    labels::TrafficLabels,
};
use crate::mesh::{Denial, policy::authorization::AuditFinding};

#[derive(Clone, Debug, Default)]
pub struct Metrics {
    opened: Family<TrafficLabels, Counter>,
    closed: Family<TrafficLabels, Counter>,
    failed: Family<TrafficLabels, Counter>,
    sent: Family<TrafficLabels, Counter>,
    received: Family<TrafficLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    denied: Family<DenialLabels, Counter>,
    audited: Family<AuditLabels, Counter>,
}

/// One connection's counters.
#[derive(Debug)]
pub struct ConnectionMetrics {
    closed: Counter,
    sent: Counter,
    received: Counter,
}

/// Why a connection never became one that policy could judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    TooManyHandshakes,
    TooManyConnections,
    HandshakeTimeout,
    Tls,
    CertificateRevoked,
    Http2,
    NoCertificate,
    BadRequest,
    NotConnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: Refusal,
}

/// As many as there are policies that deny.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DenialLabels {
    policy: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    policy: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    component: &'static str,
    tag: &'static str,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let tag = env!("CARGO_PKG_VERSION");
        let build = Family::<BuildLabels, Gauge>::default();
        let component = "ztun";
        build.get_or_create(&BuildLabels { component, tag }).set(1);
        registry.register("istio_build", "The version of this proxy", build);
        for (name, help, family) in [
            (
                "istio_tcp_connections_opened",
                "Connections opened",
                &self.opened,
            ),
            (
                "istio_tcp_connections_closed",
                "Connections closed",
                &self.closed,
            ),
            (
                "istio_tcp_connections_failed",
                "Connections that ended with an error",
                &self.failed,
            ),
            (
                "istio_tcp_sent_bytes",
                "Bytes that destinations sent in response",
                &self.sent,
            ),
            (
                "istio_tcp_received_bytes",
                "Bytes that destinations received",
                &self.received,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "ztun_connections_refused",
            "Connections and tunnels refused before policy could judge them",
            self.refused.clone(),
        );
        registry.register(
            "ztun_policy_denials",
            "Connections that a policy refused or closed, by the policy",
            self.denied.clone(),
        );
        registry.register(
            "ztun_policy_audit",
            "Connections that an AUDIT or dry-run policy has something to say of; it decides nothing",
            self.audited.clone(),
        );
    }

    /// Counts an opened connection.
    pub fn opened(&self, flow: &Flow) -> ConnectionMetrics {
        let labels = TrafficLabels::of(flow, ResponseFlag::None);
        self.opened.get_or_create(&labels).inc();
        ConnectionMetrics {
            closed: self.closed.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
        }
    }

    pub fn failed(&self, flow: &Flow, flag: ResponseFlag) {
        let labels = TrafficLabels::of(flow, flag);
        self.failed.get_or_create(&labels).inc();
    }

    pub fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }

    pub fn denied(&self, denial: &Denial) {
        let policy = Arc::clone(&denial.policy);
        self.denied.get_or_create(&DenialLabels { policy }).inc();
    }

    pub fn audited(&self, finding: &AuditFinding) {
        let labels = AuditLabels {
            policy: Arc::clone(&finding.policy),
            outcome: finding.outcome.as_str(),
        };
        self.audited.get_or_create(&labels).inc();
    }

    /// How often inbound connections were refused for `reason`.
    pub fn refusals(&self, reason: Refusal) -> u64 {
        self.refused.get_or_create(&RefusalLabels { reason }).get()
    }
}

impl ConnectionMetrics {
    pub fn closed(&self) {
        self.closed.inc();
    }

    /// Istio counts from the destination's point of view, whoever reports.
    pub fn to_destination(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    pub fn to_source(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }
}
