//! Answers to an operator's questions about connections that nobody has to make: the same decisions
//! that the proxy makes, without the connecting.

mod attempt;
mod authz_explain;
mod lookup;
pub mod simulate;
mod tls_check;

pub use self::{
    attempt::{Answers, ClientSide, Endpoint, QueryError},
    authz_explain::{AuthzExplanation, Judgement, Verdict},
    lookup::LookupError,
    tls_check::{ServerSide, TlsCheck, TlsStatus},
};

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Workload;

/// The two ends of a connection, as an operator calls them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    pub source: String,
    pub destination: HostPort,
}

/// `name:port`, `address:port` or `[IPv6 address]:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a destination: write NAME:PORT, such as shop/cart:8080, 10.0.0.1:80 or [fd00::1]:80"
)]
pub struct HostPortError(String);

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Client {
    Workload(Arc<Workload>),
    /// Nothing that the mesh knows.
    Address(IpAddr),
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let port = port.parse().map_err(|_| error())?;
        if host.is_empty() || port == 0 || (bracketed.is_none() && host.contains(':')) {
            return Err(error());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostPortError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(destination: HostPort) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload) => workload.pod.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fixture;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_written_back_as_it_was_read() {
        for text in [
            "foo/a:80",
            "web.foo.svc:65535",
            "10.0.0.1:1",
            "[fd00::1]:80",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_destination_without_a_port_or_with_an_address_that_hides_it_is_refused() {
        for text in [
            "",
            "foo/a",
            "foo/a:",
            ":80",
            "foo/a:0",
            "foo/a:65536",
            "foo/a:http",
            "fd00::1:80",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text} was accepted");
        }
    }
}
