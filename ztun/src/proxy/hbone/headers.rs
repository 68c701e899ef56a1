//! The CONNECT request: its target, and the headers for telemetry, which prove nothing.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderValue, Method, Request, Uri, Version, uri::Authority};
use rand::Rng;

use super::{baggage, forwarded};
use crate::mesh::{Service, Workload};

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
    let host = service.map(|service| &*service.hostname);
    insert(baggage::NAME, baggage::of_workload(source));
    insert(forwarded::NAME, forwarded::of_source(source_address, host));
    insert("traceparent", traceparent(random));
    request
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
