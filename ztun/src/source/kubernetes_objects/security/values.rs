//! The values of policies' fields: what each may be, in its author's words.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::mesh::{
    Identity,
    policy::authorization::{ServiceAccount, StringMatch},
};

const SCHEME: &str = "spiffe://";

/// `cluster.local/ns/foo/sa/bar`, or with `*` at one end.
pub(super) fn principal(text: &str) -> Result<StringMatch, String> {
    if let Some(rest) = text.strip_prefix(SCHEME) {
        return Err(format!(
            "`{text}`: principals are written without `{SCHEME}`: `{rest}`"
        ));
    }
    let pattern = pattern(text)?;
    if has_principals(&pattern) {
        return Ok(pattern);
    }
    Err(match pattern {
        StringMatch::Exact(_) => format!(
            "`{text}` is nobody's principal, expected TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT, such as `cluster.local/ns/foo/sa/bar`, or a pattern with `*` at its start or end"
        ),
        _ => format!(
            "`{text}` matches no principal: they are of lower-case letters, digits, `-`, `_`, `.` and `/`"
        ),
    })
}

/// `foo`, or with `*` at one end.
pub(super) fn namespace(text: &str) -> Result<StringMatch, String> {
    let pattern = pattern(text)?;
    if !has_namespaces(&pattern) {
        return Err(format!(
            "`{text}` is no namespace's name, expected lower-case letters, digits and `-`, or a pattern with `*` at its start or end"
        ));
    }
    Ok(pattern)
}

/// `bar` or `foo/bar`; the first is of the policy's own namespace.
pub(super) fn service_account(text: &str, own_namespace: &str) -> Result<ServiceAccount, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
    if text.contains('*') {
        return Err(format!(
            "`{text}`: service accounts have no patterns: name each, or use `namespaces` or `principals`"
        ));
    }
    if !is_name(namespace) || !is_name(name) {
        let hint = text.parse::<Identity>().ok();
        let hint = hint.or_else(|| format!("{SCHEME}{text}").parse().ok());
        let hint = hint.map_or_else(String::new, |identity| {
            let (namespace, name) = (identity.namespace(), identity.service_account());
            format!(": write `{namespace}/{name}`")
        });
        return Err(format!(
            "`{text}` is not a service account, expected NAME or NAMESPACE/NAME{hint}"
        ));
    }
    Ok(ServiceAccount {
        namespace: namespace.into(),
        name: name.into(),
    })
}

/// An address or a block of them, both families.
pub(crate) fn ip_block(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from).ok();
    let block = address.or_else(|| text.parse().ok()).ok_or_else(|| {
        format!(
            "`{text}` is not an IP address or block, expected such as 10.1.2.3, 10.1.0.0/16, fd00::1 or fd00::/64"
        )
    })?;
    Ok(canonical(block).trunc())
}

/// 1 to 65535.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| {
        let hint = if digits {
            ""
        } else {
            ": names and ranges are not possible"
        };
        format!("`{text}` is not a port, expected a number from 1 to 65535{hint}")
    })
}

/// Whether anybody can have a principal that matches.
pub(crate) fn has_principals(pattern: &StringMatch) -> bool {
    match pattern {
        StringMatch::Exact(name) => format!("{SCHEME}{name}").parse::<Identity>().is_ok(),
        StringMatch::Prefix(part) | StringMatch::Suffix(part) => part
            .bytes()
            .all(|b| name_byte(b) || matches!(b, b'_' | b'/')),
        StringMatch::Presence => true,
    }
}

/// Whether a namespace can have a name that matches.
pub(crate) fn has_namespaces(pattern: &StringMatch) -> bool {
    match pattern {
        StringMatch::Exact(name) => is_name(name),
        StringMatch::Prefix(part) | StringMatch::Suffix(part) => part.bytes().all(name_byte),
        StringMatch::Presence => true,
    }
}

/// With `*` elsewhere it would be taken for a plain letter, which no name has: the pattern would
/// match nothing.
pub(crate) fn pattern(text: &str) -> Result<StringMatch, String> {
    let pattern = StringMatch::from(text);
    let rest = match &pattern {
        StringMatch::Exact(rest) | StringMatch::Prefix(rest) | StringMatch::Suffix(rest) => rest,
        StringMatch::Presence => return Ok(pattern),
    };
    if rest.contains('*') {
        return Err(format!(
            "`{text}`: one `*` may stand, at the start or at the end"
        ));
    }
    Ok(pattern)
}

/// A v4-mapped block is of IPv4: connections' addresses are never mapped.
fn canonical(block: IpNet) -> IpNet {
    let IpNet::V6(mapped) = block else {
        return block;
    };
    let v4 = mapped.addr().to_ipv4_mapped();
    let length = mapped.prefix_len().checked_sub(96);
    v4.zip(length)
        .and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(block, IpNet::V4)
}

/// As Kubernetes names namespaces and service accounts.
fn is_name(text: &str) -> bool {
    format!("{SCHEME}x/ns/{text}/sa/x")
        .parse::<Identity>()
        .is_ok()
}

fn name_byte(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.')
}
