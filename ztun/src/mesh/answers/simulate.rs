//! What policies would make of connections that were recorded.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use crate::mesh::{
    Connection, Decision, Identity, PodName, Snapshot, Workload, policy::Decider,
    workload::TunnelProtocol,
};

/// An inbound connection, as its destination's proxy recorded it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedFlow {
    /// What was proven; `None` is plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_pod: Option<PodName>,
    /// Without the port, which differs with every connection.
    pub source_address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_pod: Option<PodName>,
    pub destination_address: SocketAddr,
    /// Why it was denied, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<Arc<str>>,
}

/// Flows and how many connections each was.
pub type RecordedFlows = BTreeMap<RecordedFlow, u64>;

/// Counts are of connections, not of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Simulation {
    pub newly_denied: Vec<Change>,
    pub newly_allowed: Vec<Change>,
    /// To destinations that the mesh doesn't know any more: nobody can tell.
    pub not_judged: Vec<Change>,
    pub still_allowed: u64,
    pub still_denied: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub flow: RecordedFlow,
    pub connections: u64,
    /// The policy and the rule that would decide, if any would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Decider>,
    /// What the denial would say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

impl Simulation {
    /// Judges each flow by the policies of `snapshot`, the mesh that is proposed.
    pub fn new(snapshot: &Snapshot, flows: RecordedFlows) -> Self {
        let mut simulation = Self::default();
        for (flow, connections) in flows {
            simulation.judge(snapshot, flow, connections);
        }
        simulation
    }

    fn judge(&mut self, snapshot: &Snapshot, flow: RecordedFlow, connections: u64) {
        let destination = snapshot.destination_of(&flow);
        let verdict = destination.map(|destination| verdict(snapshot, &flow, destination));
        let was_denied = flow.denied.is_some();
        let change = |decided_by, denied| Change {
            flow,
            connections,
            decided_by,
            denied,
        };
        match (was_denied, verdict) {
            (_, None) => self.not_judged.push(change(None, None)),
            (false, Some((Decision::Allow, _))) => self.still_allowed += connections,
            (true, Some((Decision::Deny(_), _))) => self.still_denied += connections,
            (true, Some((Decision::Allow, decider))) => {
                self.newly_allowed.push(change(decider, None));
            }
            (false, Some((Decision::Deny(denial), decider))) => {
                self.newly_denied
                    .push(change(decider, Some(denial.to_string())));
            }
        }
    }
}

impl Snapshot {
    /// By name, as addresses go from pod to pod; a pod that was replaced is found by its address.
    fn destination_of(&self, flow: &RecordedFlow) -> Option<&Arc<Workload>> {
        let pod = flow.destination_pod.as_ref();
        pod.and_then(|pod| self.workload_by_pod(pod))
            .or_else(|| self.workload_by_address(flow.destination_address.ip()))
    }
}

fn verdict(
    snapshot: &Snapshot,
    flow: &RecordedFlow,
    destination: &Workload,
) -> (Decision, Option<Decider>) {
    if destination.tunnel_protocol == TunnelProtocol::None {
        return (Decision::Allow, None);
    }
    let explanation = snapshot.policies().explain(&Connection {
        source: flow.source_identity.as_ref(),
        source_address: SocketAddr::new(flow.source_address, 0),
        destination,
        destination_address: flow.destination_address,
    });
    (explanation.decision, explanation.decided_by)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mesh::{
        answers::fixture::snapshot,
        policy::{
            Policy, PolicyKey, PolicyKind, Selector,
            authorization::{Action, AuthorizationPolicy, Rule, Source},
        },
    };

    /// Only what has an identity of namespace foo enters.
    fn proposed() -> Snapshot {
        let mut snapshot = snapshot();
        let source = Source {
            namespaces: vec!["foo".into()],
            ..Source::default()
        };
        let rule = Rule {
            from: vec![source],
            ..Rule::default()
        };
        let policy = AuthorizationPolicy {
            namespace: "foo".into(),
            name: "own".into(),
            created: None,
            selector: Selector::default(),
            action: Action::Allow,
            dry_run: false,
            rules: vec![rule],
        };
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, "foo", "own");
        snapshot.insert_policy(key, Policy::Authorization(policy.into()));
        snapshot
    }

    fn flow(identity: Option<&str>, to: &str, denied: Option<&str>) -> RecordedFlow {
        RecordedFlow {
            source_identity: identity.map(|identity| identity.parse().unwrap()),
            source_pod: None,
            source_address: "192.0.2.1".parse().unwrap(),
            destination_pod: None,
            destination_address: to.parse().unwrap(),
            denied: denied.map(Arc::from),
        }
    }

    const FOO: Option<&str> = Some("spiffe://cluster.local/ns/foo/sa/a");

    #[test]
    fn connections_are_told_apart_by_what_was_and_what_would_be() {
        let flows = RecordedFlows::from([
            (flow(FOO, "10.0.0.2:80", None), 5),
            (flow(None, "10.0.0.2:80", None), 2),
            (flow(FOO, "10.0.0.3:80", Some("denied by x")), 3),
            (flow(None, "10.0.0.3:80", Some("denied by x")), 7),
            (flow(None, "10.0.0.4:80", None), 11),
            (flow(FOO, "198.51.100.1:80", None), 13),
        ]);
        let simulation = Simulation::new(&proposed(), flows);
        assert_eq!(simulation.still_allowed, 5 + 11);
        assert_eq!(simulation.still_denied, 7);
        let [denied] = &simulation.newly_denied[..] else {
            panic!("{simulation:?}");
        };
        assert_eq!(denied.connections, 2);
        assert!(denied.denied.as_ref().unwrap().starts_with("denied by "));
        let [allowed] = &simulation.newly_allowed[..] else {
            panic!("{simulation:?}");
        };
        assert_eq!((allowed.connections, &allowed.denied), (3, &None));
        let decider = allowed.decided_by.as_ref().unwrap();
        assert_eq!(&*decider.policy, "AuthorizationPolicy foo/own");
        assert_eq!(decider.rule, Some(0));
        assert_eq!(simulation.not_judged[0].connections, 13);
    }

    #[test]
    fn a_destination_is_found_by_its_name_before_its_address() {
        let mut moved = flow(None, "10.0.0.4:80", None);
        moved.destination_pod = Some(PodName::new("foo", "far"));
        let mut replaced = flow(None, "10.0.0.2:80", None);
        replaced.destination_pod = Some(PodName::new("foo", "far-before"));
        for flow in [moved, replaced] {
            let simulation = Simulation::new(&proposed(), [(flow, 1)].into());
            assert_eq!(simulation.newly_denied.len(), 1, "{simulation:?}");
        }
    }
}
