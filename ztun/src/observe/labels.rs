//! The label set of Istio's TCP metrics, which Kiali and the Grafana dashboards read.

use std::{fmt, sync::Arc};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use super::{
    claimed::ClaimedWorkload,
    flow::{Direction, Flow, Party, ResponseFlag, Security},
};
use crate::mesh::Workload;

/// A label's value; what is missing is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value(Arc<str>);

/// Istio's labels, in the order in which the peer writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TrafficLabels {
    reporter: &'static str,
    source_workload: Value,
    source_canonical_service: Value,
    source_canonical_revision: Value,
    source_workload_namespace: Value,
    source_principal: Value,
    source_app: Value,
    source_version: Value,
    source_cluster: Value,
    destination_service: Value,
    destination_service_namespace: Value,
    destination_service_name: Value,
    destination_workload: Value,
    destination_canonical_service: Value,
    destination_canonical_revision: Value,
    destination_workload_namespace: Value,
    destination_principal: Value,
    destination_app: Value,
    destination_version: Value,
    destination_cluster: Value,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

/// One party's share of the labels.
struct PartyLabels {
    workload: Value,
    namespace: Value,
    canonical_service: Value,
    canonical_revision: Value,
    principal: Value,
    app: Value,
    version: Value,
    cluster: Value,
}

impl TrafficLabels {
    pub fn of(flow: &Flow, flag: ResponseFlag) -> Self {
        let source = PartyLabels::of(&flow.source);
        let destination = PartyLabels::of(&flow.destination);
        let service = flow.service.as_deref();
        Self {
            reporter: match flow.direction {
                Direction::Inbound => "destination",
                Direction::Outbound => "source",
            },
            source_workload: source.workload,
            source_canonical_service: source.canonical_service,
            source_canonical_revision: source.canonical_revision,
            source_workload_namespace: source.namespace,
            source_principal: source.principal,
            source_app: source.app,
            source_version: source.version,
            source_cluster: source.cluster,
            destination_service: Value::of(service.map(|s| &s.hostname)),
            destination_service_namespace: Value::of(service.map(|s| &s.key.namespace)),
            destination_service_name: Value::of(service.map(|s| &s.key.name)),
            destination_workload: destination.workload,
            destination_canonical_service: destination.canonical_service,
            destination_canonical_revision: destination.canonical_revision,
            destination_workload_namespace: destination.namespace,
            destination_principal: destination.principal,
            destination_app: destination.app,
            destination_version: destination.version,
            destination_cluster: destination.cluster,
            request_protocol: "tcp",
            response_flags: flag.as_str(),
            connection_security_policy: match flow.security {
                Security::MutualTls => "mutual_tls",
                Security::SameNode => "same_node",
                Security::Plaintext => "unknown",
            },
        }
    }
}

impl PartyLabels {
    fn of(party: &Party) -> Self {
        let field = |of_workload: fn(&Workload) -> &Arc<str>,
                     of_claim: fn(&ClaimedWorkload) -> &Arc<str>| {
            let known = party.workload.as_deref().map(of_workload);
            Value::of(known.or_else(|| party.claimed.as_deref().map(of_claim)))
        };
        let canonical_service = field(|w| &w.canonical_service, |c| &c.canonical_service);
        let canonical_revision = field(|w| &w.canonical_revision, |c| &c.canonical_revision);
        Self {
            workload: field(|w| &w.workload_name, |c| &c.workload_name),
            namespace: field(|w| &w.pod.namespace, |c| &c.namespace),
            principal: match &party.identity {
                Some(identity) => Value(identity.to_string().into()),
                None => Value::of(None),
            },
            app: canonical_service.clone(),
            version: canonical_revision.clone(),
            canonical_service,
            canonical_revision,
            cluster: field(|w| &w.cluster_id, |c| &c.cluster_id),
        }
    }
}

impl Value {
    fn of(text: Option<&Arc<str>>) -> Self {
        match text {
            Some(text) if !text.is_empty() => Self(Arc::clone(text)),
            _ => Self("unknown".into()),
        }
    }
}

impl EncodeLabelValue for Value {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}
