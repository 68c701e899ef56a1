//! The CONNECT request: its target, and the headers that carry telemetry. None of them proves anything.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderValue, Method, Request, Uri, Version, uri::Authority};
use rand::Rng;

use crate::mesh::{Service, Workload, workload::WorkloadKind};

/// The inner target of a tunnel: an address, never a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HboneTarget(pub SocketAddr);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request has no authority")]
    Missing,
    #[error("`{0}` is not an IP address and a port")]
    NotAnAddress(String),
}

impl HboneTarget {
    pub fn of(uri: &Uri) -> Result<Self, TargetError> {
        let authority = uri.authority().ok_or(TargetError::Missing)?.as_str();
        let address = SocketAddr::from_str(authority)
            .map_err(|_| TargetError::NotAnAddress(authority.to_owned()))?;
        let ip = address.ip().to_canonical();
        Ok(Self(SocketAddr::new(ip, address.port())))
    }
}

/// The CONNECT request for `target`, in the name of `source`.
pub fn connect_request(
    target: SocketAddr,
    source: &Workload,
    source_address: IpAddr,
    service: Option<&Service>,
    random: &mut impl Rng,
) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    // A socket address is always a valid authority.
    if let Ok(authority) = Authority::try_from(target.to_string()) {
        *request.uri_mut() = Uri::from(authority);
    }
    let headers = request.headers_mut();
    let mut insert = |name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    insert("baggage", baggage(source));
    insert("forwarded", forwarded(source_address, service));
    insert("traceparent", traceparent(random));
    request
}

fn baggage(workload: &Workload) -> String {
    let kind = match workload.workload_kind {
        WorkloadKind::Deployment => "k8s.deployment.name",
        WorkloadKind::CronJob => "k8s.cronjob.name",
        WorkloadKind::Pod => "k8s.pod.name",
        WorkloadKind::Job => "k8s.job.name",
    };
    let members = [
        ("k8s.cluster.name", &workload.cluster_id),
        ("k8s.namespace.name", &workload.pod.namespace),
        (kind, &workload.workload_name),
        ("service.name", &workload.canonical_service),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let members = members
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={value}"));
    members.collect::<Vec<_>>().join(",")
}

/// RFC 7239: an IPv6 address is quoted and in brackets.
fn forwarded(source: IpAddr, service: Option<&Service>) -> String {
    let source = match source {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    match service {
        Some(service) => format!("for={source};host={}", service.hostname),
        None => format!("for={source}"),
    }
}

/// W3C Trace Context: version 00, sampled.
fn traceparent(random: &mut impl Rng) -> String {
    let trace: u128 = random.random_range(1..=u128::MAX);
    let span: u64 = random.random_range(1..=u64::MAX);
    format!("00-{trace:032x}-{span:016x}-01")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(authority: &str) -> Result<HboneTarget, TargetError> {
        HboneTarget::of(&authority.parse().unwrap())
    }

    #[test]
    fn addresses_of_both_families_are_targets() {
        assert_eq!(target("10.0.0.1:80").unwrap().0.to_string(), "10.0.0.1:80");
        assert_eq!(
            target("[fd00::1]:80").unwrap().0.to_string(),
            "[fd00::1]:80"
        );
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_means() {
        assert_eq!(
            target("[::ffff:10.0.0.1]:80").unwrap().0.to_string(),
            "10.0.0.1:80"
        );
    }

    #[test]
    fn names_and_addresses_without_a_port_are_not() {
        for authority in [
            "httpbin.foo.svc.cluster.local:80",
            "10.0.0.1",
            "localhost:80",
        ] {
            assert!(target(authority).is_err(), "{authority} was accepted");
        }
        assert_eq!(
            HboneTarget::of(&"/path".parse().unwrap()),
            Err(TargetError::Missing)
        );
    }
}
