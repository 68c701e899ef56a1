//! Whether both sides of a connection agree on mutual TLS.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Answers, Client, ClientSide, Endpoint, Query, QueryError, attempt::Attempt, lookup::Destination,
};
use crate::mesh::{policy::MtlsMode, workload::TunnelProtocol};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsCheck {
    /// A pod, or an address outside of the mesh.
    pub source: String,
    /// What the client asks for, with the port.
    pub host: String,
    pub endpoint: Endpoint,
    pub status: TlsStatus,
    pub client: ClientSide,
    pub server: ServerSide,
    /// Which object decides what the server's side accepts; `None` is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// Both are on one other node, which is taken to have the `sameNode` of the one that answers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub assumed: bool,
}

// Serde's signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsStatus {
    /// Encrypted, or within a node, and accepted.
    Ok,
    /// In clear, and accepted.
    Plaintext,
    /// Refused.
    Conflict,
}

/// What the server's side accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerSide {
    Strict,
    Permissive,
    NotEnrolled,
    /// A policy can't be enforced as written.
    Closed,
}

impl Answers<'_> {
    pub fn tls_check(&self, query: &Query) -> Result<Vec<TlsCheck>, QueryError> {
        let attempts = self.attempts(query)?;
        Ok(attempts.iter().map(|attempt| self.judge(attempt)).collect())
    }

    /// From every enrolled workload to every port of every service that has an endpoint for it.
    pub fn tls_check_all(&self) -> Vec<TlsCheck> {
        let enrolled = self.snapshot.workloads().filter(|workload| {
            workload.tunnel_protocol != TunnelProtocol::None && !workload.addresses.is_empty()
        });
        let destinations: Vec<(Destination, &[u16])> = self
            .snapshot
            .services()
            .filter_map(|service| {
                let destination = self.snapshot.service_destination(service).ok()?;
                Some((destination, &service.ports[..]))
            })
            .collect();
        let mut checks = Vec::new();
        for source in enrolled {
            let source = Client::Workload(Arc::clone(source));
            for (destination, ports) in &destinations {
                for port in *ports {
                    let attempts = self.attempts_of(&source, destination, *port);
                    checks.extend(attempts.iter().flatten().map(|attempt| self.judge(attempt)));
                }
            }
        }
        checks
    }

    fn judge(&self, attempt: &Attempt) -> TlsCheck {
        let (server, policy) = self.server_side(attempt);
        let status = match (&attempt.client, server) {
            (ClientSide::Refused { .. }, _)
            | (_, ServerSide::Closed)
            | (ClientSide::Plaintext, ServerSide::Strict) => TlsStatus::Conflict,
            (ClientSide::Plaintext, ServerSide::Permissive | ServerSide::NotEnrolled) => {
                TlsStatus::Plaintext
            }
            (ClientSide::MutualTls | ClientSide::SameNode, _) => TlsStatus::Ok,
        };
        TlsCheck {
            source: attempt.source.to_string(),
            host: attempt.host.to_string(),
            endpoint: attempt.endpoint(),
            status,
            client: attempt.client.clone(),
            server,
            policy,
            assumed: attempt.assumed,
        }
    }

    fn server_side(&self, attempt: &Attempt) -> (ServerSide, Option<Arc<str>>) {
        let Some(destination) = attempt.enrolled_destination() else {
            return (ServerSide::NotEnrolled, None);
        };
        let policies = self.snapshot.policies();
        if let Some(denial) = policies.closed(destination).into_iter().next() {
            return (ServerSide::Closed, Some(denial.policy));
        }
        let effective = policies
            .peer_authentications()
            .effective(destination, attempt.address.port());
        let Some((mode, policy)) = effective else {
            return (ServerSide::Permissive, None);
        };
        let server = match mode {
            MtlsMode::Strict => ServerSide::Strict,
            MtlsMode::Permissive => ServerSide::Permissive,
        };
        (server, Some(policy.to_string().into()))
    }
}

impl fmt::Display for TlsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Plaintext => "PLAINTEXT",
            Self::Conflict => "CONFLICT",
        })
    }
}

impl fmt::Display for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "mutual TLS only (STRICT)",
            Self::Permissive => "mutual TLS and plaintext (PERMISSIVE)",
            Self::NotEnrolled => "plaintext (not enrolled)",
            Self::Closed => "nothing (closed)",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::mesh::{
        Snapshot,
        answers::fixture::{query, snapshot},
        fixture::{arc, workload},
        policy::{
            Denial, FailClosed, PeerAuthentication, Policy, PolicyKey, PolicyKind, Selector, Target,
        },
        transport::{SameNode, TransportSettings},
    };

    fn rows(snapshot: &Snapshot, source: &str, destination: &str) -> Vec<String> {
        let answers = Answers {
            node: "a",
            snapshot,
            transport: TransportSettings::default(),
        };
        let checks = answers.tls_check(&query(source, destination)).unwrap();
        checks.iter().map(row).collect()
    }

    fn row(check: &TlsCheck) -> String {
        let policy = check.policy.as_deref().unwrap_or("-");
        let TlsCheck {
            host,
            endpoint,
            status,
            client,
            server,
            ..
        } = check;
        format!("{host} {endpoint} {status}: {client}, {server}, {policy}")
    }

    fn set_mode(snapshot: &mut Snapshot, mode: MtlsMode) {
        let policy = PeerAuthentication {
            namespace: "foo".into(),
            name: "default".into(),
            created: None,
            selector: Selector::default(),
            mode: Some(mode),
            port_modes: BTreeMap::new(),
        };
        let key = PolicyKey::new(PolicyKind::PeerAuthentication, "foo", "default");
        snapshot.insert_policy(key, Policy::PeerAuthentication(policy));
    }

    #[test]
    fn without_policies_enrolled_pods_agree_and_others_are_in_clear() {
        let permissive = "mutual TLS and plaintext (PERMISSIVE), -";
        for (source, destination, expected) in [
            ("foo/client", "pod/foo/far:8080", format!("foo/far:8080 10.0.0.2:8080 (foo/far) OK: mutual TLS, {permissive}")),
            ("foo/client", "foo/near:8080", format!("foo/near:8080 10.0.0.3:8080 (foo/near) OK: same node, {permissive}")),
            ("192.0.2.1", "pod/foo/far:8080", format!("foo/far:8080 10.0.0.2:8080 (foo/far) PLAINTEXT: plaintext, {permissive}")),
            ("foo/outside", "pod/foo/far:8080", format!("foo/far:8080 10.0.0.2:8080 (foo/far) PLAINTEXT: plaintext, {permissive}")),
            ("foo/client", "foo/outside:80", "foo/outside:80 10.0.0.4:80 (foo/outside) PLAINTEXT: plaintext, plaintext (not enrolled), -".to_owned()),
            ("foo/client", "[2001:db8::1]:80", "[2001:db8::1]:80 [2001:db8::1]:80 PLAINTEXT: plaintext, plaintext (not enrolled), -".to_owned()),
        ] {
            assert_eq!(rows(&snapshot(), source, destination), [expected]);
        }
    }

    #[test]
    fn each_family_that_both_ends_have_is_a_row() {
        let mut snapshot = snapshot();
        snapshot.insert_workload(arc(workload("dual", &["10.0.0.8", "fd00::8"])));
        snapshot.insert_workload(arc(workload("six", &["fd00::9"])));
        snapshot.insert_workload(arc(workload("seven", &["10.0.0.7", "fd00::7"])));
        let endpoints = |source: &str, destination: &str| {
            let rows = rows(&snapshot, source, destination);
            let second = |row: &String| row.split(' ').nth(1).unwrap().to_owned();
            rows.iter().map(second).collect::<Vec<_>>()
        };
        let both = ["10.0.0.8:80", "[fd00::8]:80"];
        assert_eq!(endpoints("foo/six", "foo/dual:80"), both[1..]);
        assert_eq!(endpoints("foo/client", "foo/dual:80"), both[..1]);
        assert_eq!(endpoints("foo/seven", "foo/dual:80"), both);
    }

    #[test]
    fn what_another_node_does_between_its_pods_is_assumed() {
        let snapshot = snapshot();
        for (source, destination, assumed) in [
            ("foo/neighbour", "pod/foo/far:80", true),
            ("foo/client", "foo/near:80", false),
            ("foo/client", "pod/foo/far:80", false),
            ("192.0.2.1", "pod/foo/far:80", false),
        ] {
            let answers = Answers {
                node: "a",
                snapshot: &snapshot,
                transport: TransportSettings::default(),
            };
            let checks = answers.tls_check(&query(source, destination)).unwrap();
            assert_eq!(checks[0].assumed, assumed, "{source} {destination}");
        }
    }

    #[test]
    fn strict_takes_mutual_tls_and_the_same_node_and_refuses_plaintext() {
        let mut snapshot = snapshot();
        set_mode(&mut snapshot, MtlsMode::Strict);
        for (source, client, status) in [
            ("foo/client", "mutual TLS", "OK"),
            ("foo/neighbour", "same node", "OK"),
            ("foo/outside", "plaintext", "CONFLICT"),
            ("192.0.2.1", "plaintext", "CONFLICT"),
        ] {
            let expected = format!(
                "foo/far:8080 10.0.0.2:8080 (foo/far) {status}: {client}, mutual TLS only (STRICT), PeerAuthentication foo/default"
            );
            assert_eq!(rows(&snapshot, source, "pod/foo/far:8080"), [expected]);
        }
        set_mode(&mut snapshot, MtlsMode::Permissive);
        let shown = rows(&snapshot, "192.0.2.1", "pod/foo/far:8080");
        assert!(shown[0].ends_with("PLAINTEXT: plaintext, mutual TLS and plaintext (PERMISSIVE), PeerAuthentication foo/default"));
    }

    #[test]
    fn the_mode_is_that_of_the_endpoint_s_own_port() {
        let mut snapshot = snapshot();
        let policy = PeerAuthentication {
            namespace: "foo".into(),
            name: "ports".into(),
            created: None,
            selector: Selector(BTreeMap::from([("app".into(), "far".into())])),
            mode: None,
            port_modes: BTreeMap::from([(8080, Some(MtlsMode::Strict))]),
        };
        let key = PolicyKey::new(PolicyKind::PeerAuthentication, "foo", "ports");
        snapshot.insert_policy(key, Policy::PeerAuthentication(policy));
        let service = rows(&snapshot, "192.0.2.1", "far.foo:80");
        assert!(
            service[0].starts_with("far.foo.svc.cluster.local:80 10.0.0.2:8080 (foo/far) CONFLICT")
        );
        let other_port = rows(&snapshot, "192.0.2.1", "pod/foo/far:80");
        assert!(other_port[0].contains("PLAINTEXT"), "{other_port:?}");
    }

    #[test]
    fn a_service_has_a_row_for_each_endpoint_and_an_error_without_any() {
        let snapshot = snapshot();
        let shown = rows(&snapshot, "foo/client", "foo/both:80");
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown[0].contains("10.0.0.2:8080 (foo/far) OK: mutual TLS"));
        assert!(shown[1].contains("10.0.0.3:8080 (foo/near) OK: same node"));
        let answers = Answers {
            node: "a",
            snapshot: &snapshot,
            transport: TransportSettings::default(),
        };
        for (destination, expected) in [
            ("foo/both:81", "service foo/both has no port 81"),
            ("foo/down:80", "service foo/down has no ready endpoint"),
            (
                "foo/client:80",
                "foo/client would connect to its own address",
            ),
        ] {
            let error = answers.tls_check(&query("foo/client", destination));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn neighbours_use_mutual_tls_where_that_is_set() {
        let snapshot = snapshot();
        let answers = Answers {
            node: "a",
            snapshot: &snapshot,
            transport: TransportSettings {
                same_node: SameNode::Tunnel,
                ..TransportSettings::default()
            },
        };
        let checks = answers
            .tls_check(&query("foo/client", "foo/near:80"))
            .unwrap();
        assert_eq!(checks[0].client, ClientSide::MutualTls);
    }

    #[test]
    fn a_port_of_the_proxy_and_a_closed_target_are_conflicts() {
        let mut snapshot = snapshot();
        let shown = rows(&snapshot, "foo/client", "foo/near:15008");
        assert!(shown[0].contains("CONFLICT: refused: port 15008 is the proxy's own"));
        let key = PolicyKey::new(PolicyKind::AuthorizationPolicy, "foo", "wrong");
        let denial = Denial {
            policy: "AuthorizationPolicy foo/wrong".into(),
            reason: "it can't be read".into(),
            hint: "correct it".into(),
        };
        let target = Target {
            namespace: Some("foo".into()),
            selector: Selector::default(),
        };
        let policy = Policy::FailClosed(FailClosed { target, denial });
        snapshot.insert_policy(key, policy);
        let shown = rows(&snapshot, "foo/client", "foo/near:80");
        assert!(
            shown[0]
                .ends_with("CONFLICT: same node, nothing (closed), AuthorizationPolicy foo/wrong"),
            "{shown:?}"
        );
    }

    #[test]
    fn all_is_every_enrolled_workload_with_every_reachable_port_of_a_service() {
        let mut snapshot = snapshot();
        snapshot.insert_workload(arc(workload("pending", &[])));
        let answers = Answers {
            node: "a",
            snapshot: &snapshot,
            transport: TransportSettings::default(),
        };
        let checks = answers.tls_check_all();
        // Four enrolled workloads; far has one endpoint, both has two, down has none.
        assert_eq!(checks.len(), 4 * 3);
        assert!(checks.iter().all(|check| check.status == TlsStatus::Ok));
        let sources: std::collections::BTreeSet<_> =
            checks.iter().map(|check| check.source.as_str()).collect();
        assert_eq!(
            sources.into_iter().collect::<Vec<_>>(),
            ["foo/client", "foo/far", "foo/near", "foo/neighbour"]
        );
    }
}
