//! Where the CA is: `https://HOST:PORT`.

use std::{fmt, str::FromStr};

use http::Uri;
use rustls::pki_types::ServerName;

/// A CA's address. Its certificate must be for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaAddress {
    uri: Uri,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form https://HOST:PORT, such as https://istiod.istio-system.svc:15012")]
pub struct InvalidCaAddress;

impl CaAddress {
    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    pub(super) fn uri(&self) -> Uri {
        self.uri.clone()
    }
}

impl FromStr for CaAddress {
    type Err = InvalidCaAddress;

    fn from_str(text: &str) -> Result<Self, InvalidCaAddress> {
        let uri: Uri = text.parse().map_err(|_| InvalidCaAddress)?;
        let authority = uri.authority().ok_or(InvalidCaAddress)?;
        let nothing_else = !authority.as_str().contains('@')
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
        // In clear, the token would be anybody's.
        if uri.scheme_str() != Some("https") || !nothing_else {
            return Err(InvalidCaAddress);
        }
        let bracketed = authority.host();
        let host = bracketed
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(bracketed)
            .to_owned();
        Ok(Self {
            server_name: ServerName::try_from(host.clone()).map_err(|_| InvalidCaAddress)?,
            port: authority.port_u16().ok_or(InvalidCaAddress)?,
            host,
            uri,
        })
    }
}

impl fmt::Display for CaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "https://{authority}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_both_families_are_hosts() {
        for (text, host) in [
            (
                "https://istiod.istio-system.svc:15012",
                "istiod.istio-system.svc",
            ),
            ("https://10.0.0.1:15012/", "10.0.0.1"),
            ("https://[fd00::1]:15012", "fd00::1"),
        ] {
            let address: CaAddress = text.parse().unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(address.host_and_port(), (host, 15012));
            assert_eq!(address.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "istiod:15012",
            "http://istiod:15012",
            "https://istiod",
            "https://:15012",
            "https://user@istiod:15012",
            "https://istiod:15012/path",
            "https://istiod:15012?query",
            "https://istiod:0x1",
            "https://istiod:99999",
            "https://is tiod:1",
            "unix:///run/ca.sock",
        ] {
            assert_eq!(text.parse::<CaAddress>(), Err(InvalidCaAddress), "{text}");
        }
    }
}
