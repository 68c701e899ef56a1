#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::ConfigFlags;

fn with_file(text: &str) -> ConfigSources {
    ConfigSources {
        flags: ConfigFlags::default(),
        environment: std::collections::BTreeMap::new(),
        file: Some(("/etc/ca.yaml".into(), Ok(text.into()))),
        hostname: Some("ca-1".into()),
        cores: 4,
    }
}

fn errors(text: &str) -> Vec<String> {
    CaConfig::load(with_file(text)).unwrap_err().0
}

#[test]
fn defaults_are_those_of_a_pod_that_makes_its_own_root() {
    let config = CaConfig::load(with_file("stateDirectory: /data\n")).unwrap();
    assert_eq!(config.listen.port(), 15012);
    assert_eq!(
        config.signer,
        SignerSource::Directory {
            ca_directory: "/data/ca".into()
        }
    );
    assert_eq!(config.issue_log, PathBuf::from("/data/issued.jsonl"));
    let Authentication::TokenReview { token_review } = config.authentication else {
        panic!("{:?}", config.authentication);
    };
    assert_eq!(&*token_review.audience, "istio-ca");
}

#[test]
fn what_is_printed_is_read_back() {
    for text in [
        "",
        "authentication: staticTokens\ntokenFile: /tokens\nserverNames: ca.shop.svc,10.0.0.1,::1\n",
        "keyFile: /s/ca-key.pem\nchainFile: /s/cert-chain.pem\nrootFile: /s/root-cert.pem\n",
        "keyFile: /s/ca-key.pem\nrootFile: /s/root-cert.pem\nrateLimit: {burst: 7}\n",
        "tokenReview: {apiServer: \"https://[::1]:6443\", nodeAccounts: \"a/b, c/d\"}\n",
    ] {
        let config = CaConfig::load(with_file(text)).unwrap();
        let printed = serde_norway::to_string(&config).unwrap();
        assert_eq!(
            CaConfig::load(with_file(&printed)).unwrap(),
            config,
            "{printed}"
        );
    }
}

#[test]
fn settings_that_exclude_or_need_each_other_are_told() {
    for (text, expected) in [
        (
            "caDirectory: /a\nkeyFile: /b\nrootFile: /c\n",
            "give one or the other",
        ),
        ("keyFile: /b\n", "needs both keyFile and rootFile"),
        ("chainFile: /b\n", "needs both keyFile and rootFile"),
        ("authentication: staticTokens\n", "give their tokenFile"),
        ("tokenFile: /t\n", "is for authentication: staticTokens"),
        (
            "listen: 1.1.1.1:1\nmetricsAddress: 1.1.1.1:1\n",
            "are both 1.1.1.1:1",
        ),
    ] {
        let errors = errors(text);
        assert!(
            errors.len() == 1 && errors[0].contains(expected),
            "{text}: {errors:?}"
        );
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let errors = errors(
        "serverNames: \"a,,b\"\nauthentication: none\nmaxLifetime: 0s\nsocket: /x\n\
         tokenReview: {apiServer: \"http://x\", nodeAccounts: ztun}\n",
    );
    assert_eq!(errors.len(), 6, "{errors:?}");
    for name in [
        "serverNames",
        "authentication",
        "maxLifetime",
        "socket is not a setting",
        "tokenReview.apiServer",
        "tokenReview.nodeAccounts",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(name)),
            "{name}: {errors:?}"
        );
    }
}
