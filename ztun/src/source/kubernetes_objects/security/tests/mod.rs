#![allow(clippy::unwrap_used)]

mod any_value;
mod authorization;
mod conditions;
mod every_field;
mod peer_authentication;
mod sources;
mod targets;

use super::super::{Object, Read, ReadContext, Rejection, read};
use crate::{
    mesh::{
        TrustDomain,
        policy::{PeerAuthentication, authorization::AuthorizationPolicy},
    },
    source::document::{self, Document},
};

fn read_text(text: &str) -> Result<Read, Rejection> {
    let value = document::parse_yaml(Document { line: 1, text }).unwrap();
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let context = ReadContext {
        trust_domain: &trust_domain,
        root_namespace: "istio-system",
    };
    read(&value, context)
}

/// An object `foo/p` of the kind, with the rest of its text.
fn object(kind: &str, rest: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: foo}}\n{rest}\n"
    )
}

fn policy(rest: &str) -> AuthorizationPolicy {
    let text = object("AuthorizationPolicy", rest);
    match read_text(&text) {
        Ok(Read::Object(_, object)) => match &*object {
            Object::AuthorizationPolicy(policy) => AuthorizationPolicy::clone(policy),
            other => panic!("{rest}: {other:?}"),
        },
        other => panic!("{rest}: {other:?}"),
    }
}

fn peer_authentication(rest: &str) -> PeerAuthentication {
    let text = object("PeerAuthentication", rest);
    match read_text(&text) {
        Ok(Read::Object(_, object)) => match &*object {
            Object::PeerAuthentication(policy) => policy.clone(),
            other => panic!("{rest}: {other:?}"),
        },
        other => panic!("{rest}: {other:?}"),
    }
}

/// Each line is `TEXT => PATH => MESSAGE`: the text is refused for this one reason, whose message
/// contains that, and something closes its target. A path that is empty is `-`.
fn assert_wrong(cases: &str, object: impl Fn(&str) -> String, path_prefix: &str) {
    for case in cases.lines().filter(|line| !line.trim().is_empty()) {
        let columns: Vec<&str> = case.split("=>").map(str::trim).collect();
        let [text, path, message] = columns[..] else {
            panic!("not three columns: {case}");
        };
        let rejection = match read_text(&object(text)) {
            Err(rejection) => rejection,
            Ok(read) => panic!("`{text}` was taken: {read:?}"),
        };
        let told = rejection.message();
        let path = format!("{path_prefix}{}", path.trim_start_matches('-'));
        let [problem] = &rejection.problems[..] else {
            panic!("`{text}`: not one problem: {told}");
        };
        assert_eq!(problem.path.to_string(), path, "`{text}`: {told}");
        assert!(problem.message.contains(message), "`{text}`: {told}");
        assert!(rejection.object.ends_with(" foo/p"), "{}", rejection.object);
        assert!(
            rejection.stand_in.is_some(),
            "`{text}` leaves its target open"
        );
    }
}
