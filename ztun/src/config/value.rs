//! Settings' values from text. An error says what would have been allowed.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serializer;
use tracing_subscriber::EnvFilter;

use super::{LogFormat, SameNode};
use crate::{
    cert::{CaAddress, KeyExchange},
    mesh::TrustDomain,
    redirect::Kubelet,
};

/// What a value should have been, to follow `expected`.
pub(super) type Expected = String;

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

pub(super) fn text(value: &str) -> Result<Arc<str>, Expected> {
    match value.trim() {
        "" => Err("a text that isn't empty".to_owned()),
        text => Ok(text.into()),
    }
}

pub(super) fn name(value: &str) -> Result<Arc<str>, Expected> {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
    };
    if value.is_empty() || value.len() > 253 || !value.bytes().all(allowed) {
        return Err("1 to 253 lower-case letters, digits, `-` and `.`".to_owned());
    }
    Ok(value.into())
}

pub(super) fn trust_domain(value: &str) -> Result<TrustDomain, Expected> {
    value
        .parse()
        .map_err(|_| "1 to 255 lower-case letters, digits, `-`, `_` and `.`".to_owned())
}

/// Separated by commas; nothing is none.
pub(super) fn trust_domains(value: &str) -> Result<Vec<TrustDomain>, Expected> {
    let names = value.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(trust_domain)
        .collect::<Result<_, _>>()
        .map_err(|expected| format!("trust domains with commas between them, each {expected}"))
}

/// As [`trust_domains`] reads them.
pub(super) fn trust_domains_text<S: Serializer>(
    domains: &[TrustDomain],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let names: Vec<_> = domains.iter().map(TrustDomain::as_str).collect();
    serializer.serialize_str(&names.join(","))
}

/// Nothing is none.
pub(super) fn optional_path(value: &str) -> Result<Option<PathBuf>, Expected> {
    match value {
        "" => Ok(None),
        path => self::path(path).map(Some),
    }
}

pub(super) fn path(value: &str) -> Result<PathBuf, Expected> {
    if Path::new(value).is_absolute() {
        Ok(value.into())
    } else {
        Err("an absolute path".to_owned())
    }
}

/// Nothing stands for the embedded CA.
pub(super) fn ca_address(value: &str) -> Result<Option<CaAddress>, Expected> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| {
        "nothing, for the embedded CA, or https://HOST:PORT, such as https://istiod.istio-system.svc:15012".to_owned()
    })
}

/// As [`ca_address`] reads it.
// Serde's signature.
#[allow(clippy::ref_option)]
pub(super) fn ca_address_text<S: Serializer>(
    address: &Option<CaAddress>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}

pub(super) fn address(value: &str) -> Result<SocketAddr, Expected> {
    value
        .parse()
        .map_err(|_| "an address and port, such as 127.0.0.1:15000 or [::]:15021".to_owned())
}

pub(super) fn admin_address(value: &str) -> Result<Option<SocketAddr>, Expected> {
    if value == "none" {
        return Ok(None);
    }
    let expected =
        || "`none` or an address and port on loopback, such as 127.0.0.1:15000".to_owned();
    let address: SocketAddr = value.parse().map_err(|_| expected())?;
    let is_loopback = address.ip().to_canonical().is_loopback();
    is_loopback.then_some(Some(address)).ok_or_else(expected)
}

/// As [`admin_address`] reads it.
#[allow(clippy::ref_option)] // Serde's signature.
pub(super) fn admin_address_text<S: Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        None => serializer.serialize_str("none"),
        Some(address) => serializer.collect_str(address),
    }
}

pub(super) fn count(value: &str) -> Result<NonZeroUsize, Expected> {
    value
        .parse()
        .map_err(|_| "a whole number from 1 on".to_owned())
}

pub(super) fn same_node(value: &str) -> Result<SameNode, Expected> {
    match value {
        "direct" => Ok(SameNode::Direct),
        "tunnel" => Ok(SameNode::Tunnel),
        _ => Err("`direct` or `tunnel`".to_owned()),
    }
}

pub(super) fn key_exchange(value: &str) -> Result<KeyExchange, Expected> {
    value
        .parse()
        .map_err(|()| "`hybrid-preferred`, `hybrid-only` or `classical`".to_owned())
}

pub(super) fn kubelet(value: &str) -> Result<Kubelet, Expected> {
    match value {
        "auto" => Ok(Kubelet::Usual),
        "none" => Ok(Kubelet::Nobody),
        path if Path::new(path).is_absolute() => Ok(Kubelet::Cgroup(path.into())),
        _ => Err("`auto`, `none` or the absolute path of a cgroup".to_owned()),
    }
}

/// As [`kubelet`] reads it.
pub(super) fn kubelet_text<S: Serializer>(
    kubelet: &Kubelet,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match kubelet {
        Kubelet::Usual => serializer.serialize_str("auto"),
        Kubelet::Nobody => serializer.serialize_str("none"),
        Kubelet::Cgroup(path) => serializer.collect_str(&path.display()),
    }
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, Expected> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("`text` or `json`".to_owned()),
    }
}

pub(super) fn log_filter(value: &str) -> Result<String, Expected> {
    EnvFilter::try_new(value)
        .map(|_| value.to_owned())
        .map_err(|error| format!("levels such as `info` or `info,ztun::proxy=debug` ({error})"))
}

/// A whole number and a unit; never nothing, for a limit of no time would refuse everything.
pub(super) fn duration(value: &str) -> Result<Duration, Expected> {
    let expected =
        || "a time longer than 0 with its unit, such as 500ms, 10s, 5m or 24h".to_owned();
    let digits = value.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = UNITS
        .iter()
        .find(|(unit, _)| *unit == &value[digits.len()..]);
    let (_, milliseconds) = unit.ok_or_else(expected)?;
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*milliseconds))
        .filter(|milliseconds| *milliseconds > 0)
        .map(Duration::from_millis)
        .ok_or_else(expected)
}

/// Durations written the way they are read.
pub(super) mod duration {
    use std::time::Duration;

    use serde::Serializer;

    use super::UNITS;

    // Serde's signature.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let milliseconds = duration.as_millis();
        let mut largest_first = UNITS.iter().rev();
        let unit = largest_first.find(|(_, unit)| milliseconds.is_multiple_of(u128::from(*unit)));
        let (name, unit) = unit.unwrap_or(&UNITS[0]);
        serializer.collect_str(&format_args!("{}{name}", milliseconds / u128::from(*unit)))
    }
}
