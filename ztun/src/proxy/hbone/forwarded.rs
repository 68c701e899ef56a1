//! The `forwarded` header (RFC 7239): for whom a tunnel is, and which service its client meant.

use std::net::IpAddr;

use http::HeaderMap;

pub(super) const NAME: &str = "forwarded";

/// An address and a host name take less than 400.
const MAX_BYTES: usize = 1024;

/// What telemetry uses of it. Nothing of this is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    pub source: Option<IpAddr>,
    /// Lower case, without a port.
    pub host: Option<String>,
}

impl Forwarded {
    /// Of its first element, which is the client's own. `None` if it is missing, too long or malformed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(NAME).filter(|value| value.len() <= MAX_BYTES)?;
        let mut rest = value.to_str().ok()?;
        let mut forwarded = Self::default();
        loop {
            let (name, after) = rest.split_once('=')?;
            let name = name.trim_matches(BLANKS);
            if name.is_empty() || !name.bytes().all(is_token) {
                return None;
            }
            let (value, after) = value_of(after)?;
            match () {
                () if name.eq_ignore_ascii_case("for") => forwarded.source = node(&value)?,
                () if name.eq_ignore_ascii_case("host") => forwarded.host = Some(host(&value)?),
                () => {}
            }
            let after = after.trim_start_matches(BLANKS);
            rest = match after.strip_prefix(';') {
                Some(after) => after,
                None if after.is_empty() || after.starts_with(',') => return Some(forwarded),
                None => return None,
            };
        }
    }
}

pub(super) fn of_source(source: IpAddr, host: Option<&str>) -> String {
    let source = match source {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    match host {
        Some(host) if !host.is_empty() && host.bytes().all(is_token) => {
            format!("for={source};host={host}")
        }
        _ => format!("for={source}"),
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// A token or a quoted string, and what comes after it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.bytes().position(|byte| !is_token(byte));
        let (token, after) = text.split_at(end.unwrap_or(text.len()));
        return (!token.is_empty()).then(|| (token.to_owned(), after));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// An address with or without a port; `Some(None)` is a client without one (`unknown`, or `_name`).
#[allow(clippy::option_option)]
fn node(text: &str) -> Option<Option<IpAddr>> {
    if let Some(text) = text.strip_prefix('[') {
        let (address, port) = text.split_once(']')?;
        let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        let address = address.parse().ok().map(IpAddr::V6)?;
        return port.then_some(Some(address.to_canonical()));
    }
    let (name, port) = text
        .split_once(':')
        .map_or((text, None), |(name, port)| (name, Some(port)));
    if !port.is_none_or(is_port) {
        return None;
    }
    if name == "unknown" || name.starts_with('_') {
        return Some(None);
    }
    name.parse().ok().map(|address| Some(IpAddr::V4(address)))
}

fn host(text: &str) -> Option<String> {
    let (name, port) = text
        .split_once(':')
        .map_or((text, None), |(name, port)| (name, Some(port)));
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
    let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed);
    (is_name && port.is_none_or(is_port)).then(|| name.to_ascii_lowercase())
}

/// RFC 7239 allows an obfuscated one, `_name`, too.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() || text.starts_with('_')
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Option<Forwarded> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_str(value).unwrap());
        Forwarded::of(&headers)
    }

    fn forwarded(source: &str, host: &str) -> Forwarded {
        Forwarded {
            source: source.parse().ok(),
            host: (!host.is_empty()).then(|| host.to_owned()),
        }
    }

    #[test]
    fn every_form_of_the_rfc_is_read() {
        for (text, source, host) in [
            ("for=192.0.2.1", "192.0.2.1", ""),
            ("for=192.0.2.1;host=a.b", "192.0.2.1", "a.b"),
            ("For=\"[2001:db8::1]:47011\"", "2001:db8::1", ""),
            ("for=\"192.0.2.1:80\" ; HOST=\"A.b:80\"", "192.0.2.1", "a.b"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1", ""),
            ("for=\"\\1\\9\\2.0.2.1\"", "192.0.2.1", ""),
            ("for=unknown;host=a", "", "a"),
            ("for=_hidden;by=_x", "", ""),
            ("for=192.0.2.1, for=192.0.2.2", "192.0.2.1", ""),
            ("host=a;proto=http", "", "a"),
        ] {
            assert_eq!(read(text), Some(forwarded(source, host)), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_or_too_long_is_ignored_as_a_whole() {
        let long = format!("for=192.0.2.1;x={}", "y".repeat(MAX_BYTES));
        for text in [
            "",
            "for",
            "for=",
            "=a",
            "for=192.0.2.1;",
            "for=192.0.2.1:80",
            "for=[::1]",
            "for=\"[::1\"",
            "for=\"[::1]:x\"",
            "for=\"::1\"",
            "for=\"192.0.2.1",
            "for=\"192.0.2.1\\",
            "for=192.0.2.1 host=a",
            "for=192.0.2.1;host=\"a b\"",
            "for=example.com",
            "host=\"\"",
            &long,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(Forwarded::of(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            address in prop_oneof![
                any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
                any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
            ],
            host in prop::option::of("[a-z0-9*_.-]{1,100}"),
        ) {
            let written = of_source(address, host.as_deref());
            let expected = Forwarded { source: Some(address.to_canonical()), host };
            prop_assert_eq!(read(&written), Some(expected), "{}", written);
        }
    }
}
