//! What the CA said, or what came in between, as an error that tells what to do.

use std::{error::Error, iter};

use tonic::{Code, Status};

use crate::{cert::CaError, mesh::Identity};

/// A CA's own words in a log line are cut at this length.
const LONGEST_MESSAGE: usize = 300;

pub(super) fn of_status(ca: String, identity: &Identity, status: &Status) -> CaError {
    let message = message(status);
    let refused = |hint| CaError::Refused {
        identity: identity.clone(),
        reason: format!("{ca} says: {message}; {hint}"),
    };
    match status.code() {
        Code::PermissionDenied => refused(
            "check that a pod with this service account runs on this node, and that the CA trusts this node's own service account",
        ),
        Code::InvalidArgument | Code::FailedPrecondition => {
            refused("check that the CA signs for this trust domain and certificateLifetime")
        }
        Code::Unauthenticated => CaError::Unauthenticated {
            ca,
            reason: message,
        },
        Code::Unimplemented => CaError::Unavailable {
            ca,
            reason: format!("it does not serve istio.v1.auth.IstioCertificateService ({message})"),
        },
        code => CaError::Unavailable {
            ca,
            reason: format!("{message} ({code:?})"),
        },
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in iter::successors(error.source(), |&error| error.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What a peer sends must not forge a line of the log.
fn message(status: &Status) -> String {
    let text = match status.source() {
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    };
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let printable: String = printable.take(LONGEST_MESSAGE).collect();
    match printable.trim() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(status: &Status) -> String {
        let identity = "spiffe://cluster.local/ns/shop/sa/web".parse();
        let identity = identity.unwrap_or_else(|error| panic!("{error}"));
        of_status("the CA at https://ca:1".into(), &identity, status).to_string()
    }

    #[test]
    fn a_refusal_names_the_ca_its_words_and_what_to_check() {
        let text = text_of(&Status::permission_denied("no such pod on node a"));
        assert_eq!(
            text,
            "the CA refuses to sign for spiffe://cluster.local/ns/shop/sa/web: \
             the CA at https://ca:1 says: no such pod on node a; \
             check that a pod with this service account runs on this node, \
             and that the CA trusts this node's own service account"
        );
    }

    #[test]
    fn a_code_without_words_is_described() {
        let text = text_of(&Status::unavailable(""));
        assert!(text.contains("currently unavailable"), "{text}");
    }

    #[test]
    fn a_ca_can_neither_forge_log_lines_nor_fill_the_log() {
        let forged = format!("no\nINFO all is well{}", "x".repeat(10_000));
        let text = text_of(&Status::unauthenticated(forged));
        assert!(text.contains("no INFO all is well"), "{text}");
        assert!(text.len() < 1000, "{}", text.len());
    }
}
