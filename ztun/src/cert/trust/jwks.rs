//! SPIFFE bundles: a trust domain's roots as a JWK Set (SPIFFE Trust Domain and Bundle, section 4).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Bundle {
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    /// Keys without a use, or with another, are ignored, as the format demands.
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    x5c: Option<Vec<String>>,
}

/// The roots in a bundle. An error names the field.
pub(super) fn roots(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let json = &mut serde_json::Deserializer::from_str(text);
    let bundle: Bundle = serde_path_to_error::deserialize(json)
        .map_err(|error| format!("not a SPIFFE bundle: {}: {}", error.path(), error.inner()))?;
    let mut roots = Vec::new();
    for (index, key) in bundle.keys.into_iter().enumerate() {
        if key.usage.as_deref() != Some("x509-svid") {
            continue;
        }
        let certificates = key.x5c.unwrap_or_default();
        let [certificate] = &certificates[..] else {
            return Err(format!(
                "keys[{index}].x5c has {} certificates, expected exactly one",
                certificates.len()
            ));
        };
        let der = STANDARD
            .decode(certificate)
            .map_err(|error| format!("keys[{index}].x5c[0] is not base64: {error}"))?;
        roots.push(der.into());
    }
    if roots.is_empty() {
        return Err("no key has the use `x509-svid`, so it would prove nobody".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        roots(text).unwrap_err()
    }

    #[test]
    fn keys_of_other_uses_are_left_out() {
        let text = r#"{"spiffe_sequence": 3, "spiffe_refresh_hint": 300, "keys": [
            {"use": "jwt-svid", "kty": "EC", "kid": "a", "x5c": ["no", "matter"]},
            {"kty": "EC"},
            {"use": "x509-svid", "kty": "EC", "x5c": ["AQID"]}]}"#;
        assert_eq!(roots(text).unwrap(), [CertificateDer::from(vec![1, 2, 3])]);
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, field) in [
            (r#"{"keys": [{"use": 1}]}"#, "keys[0].use"),
            (
                r#"{"keys": [{"use": "x509-svid", "x5c": ["?"]}]}"#,
                "keys[0].x5c[0]",
            ),
            (r#"{"keys": [{"use": "x509-svid"}]}"#, "keys[0].x5c has 0"),
            (
                r#"{"keys": [{"use": "x509-svid", "x5c": ["AA==", "AA=="]}]}"#,
                "keys[0].x5c has 2",
            ),
            (
                r#"{"keys": [{"use": "jwt-svid"}]}"#,
                "no key has the use `x509-svid`",
            ),
            (r#"{"Keys": []}"#, "missing field `keys`"),
        ] {
            let error = error(text);
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
