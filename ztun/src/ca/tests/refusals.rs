//! Each rule refuses, says so to the caller, counts it, and leaves nothing signed.

use tonic::Code;

use super::{api::csr, *};

async fn refused(rig: &Rig, token: &str, ask: &Ask, code: Code, rule: &str) {
    let sample = format!("ztun_ca_refused_total{{rule=\"{rule}\"}}");
    let (before, signed) = (rig.metric(&sample), rig.issued().len());
    let status = rig.ask(token, ask).await.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    let named = format!("refused by rule {rule}: ");
    assert!(status.message().starts_with(&named), "{status}");
    assert_eq!(rig.metric(&sample), before + 1, "{sample}");
    assert_eq!(rig.issued().len(), signed);
}

#[tokio::test]
async fn a_caller_whose_token_is_not_known() {
    let rig = Rig::start().await;
    let ask = Ask::of(&cart());
    let unknown = "x".repeat(32);
    refused(
        &rig,
        &unknown,
        &ask,
        Code::Unauthenticated,
        "unauthenticated",
    )
    .await;
    let prefix = &TOKEN_A[..31];
    refused(&rig, prefix, &ask, Code::Unauthenticated, "unauthenticated").await;
}

#[tokio::test]
async fn a_caller_without_a_token() {
    let rig = Rig::start().await;
    for header in [
        None,
        Some("Bearer"),
        Some("Bearer "),
        Some("Basic abc"),
        Some(TOKEN_A),
    ] {
        let mut request = Request::new(Ask::of(&cart()).request());
        if let Some(header) = header {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", header.parse().unwrap());
        }
        let status = rig.client().await.create_certificate(request).await;
        assert_eq!(
            status.unwrap_err().code(),
            Code::Unauthenticated,
            "{header:?}"
        );
    }
}

#[tokio::test]
async fn an_identity_whose_workloads_are_on_other_nodes() {
    let rig = Rig::start().await;
    for absent in ["stock", "nobody"] {
        let ask = Ask::of(&identity(absent));
        refused(&rig, TOKEN_A, &ask, Code::PermissionDenied, "not-on-node").await;
    }
}

#[tokio::test]
async fn a_node_that_the_mesh_state_does_not_have() {
    let rig = Rig::start().await;
    let ask = Ask::of(&cart());
    let denied = Code::PermissionDenied;
    refused(&rig, TOKEN_ELSEWHERE, &ask, denied, "node-not-in-mesh").await;
}

#[tokio::test]
async fn everybody_until_the_mesh_state_is_read() {
    let rig = Rig::with_burst(10).await;
    let ask = Ask::of(&cart());
    refused(&rig, TOKEN_A, &ask, Code::Unavailable, "mesh-not-read").await;
    rig.place(&[("cart", "a")]);
    rig.ask(TOKEN_A, &ask).await.unwrap();
}

#[tokio::test]
async fn a_pod_without_a_node_belongs_to_nobody() {
    let rig = Rig::start().await;
    rig.place(&[("cart", ""), ("other", "a")]);
    let ask = Ask::of(&cart());
    refused(&rig, TOKEN_A, &ask, Code::PermissionDenied, "not-on-node").await;
}

#[tokio::test]
async fn an_identity_that_is_missing_or_none() {
    let rig = Rig::start().await;
    for none in [
        None,
        Some(Kind::StringValue(String::new())),
        Some(Kind::StringValue("spiffe://cluster.local/ns/shop".into())),
        Some(Kind::BoolValue(true)),
    ] {
        let ask = Ask {
            identity: none,
            ..Ask::of(&cart())
        };
        refused(&rig, TOKEN_A, &ask, Code::InvalidArgument, "no-identity").await;
    }
}

#[tokio::test]
async fn an_identity_of_another_trust_domain() {
    let rig = Rig::start().await;
    let foreign = "spiffe://elsewhere/ns/shop/sa/cart".parse().unwrap();
    let ask = Ask::of(&foreign);
    refused(&rig, TOKEN_A, &ask, Code::PermissionDenied, "trust-domain").await;
}

#[tokio::test]
async fn a_signing_request_that_names_more_or_less_than_the_identity() {
    let rig = Rig::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let (own, other) = (cart().to_string(), identity("stock").to_string());
    for names in [
        vec![],
        vec![other.as_str()],
        vec![&own, &other],
        vec![&other, &own],
        vec![&own, &own],
        vec!["spiffe://cluster.local/ns/shop/sa/cart/"],
    ] {
        let ask = Ask {
            csr: csr(&key, &names),
            ..Ask::of(&cart())
        };
        refused(&rig, TOKEN_A, &ask, Code::InvalidArgument, "csr-names").await;
    }
}

#[tokio::test]
async fn a_signing_request_that_is_none_or_not_by_its_own_key() {
    let rig = Rig::start().await;
    let good = pem::parse(Ask::of(&cart()).csr).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut der = good.contents().to_vec();
        change(&mut der);
        pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der))
    };
    for csr in [
        String::new(),
        "garbage".into(),
        changed(&|der| *der.last_mut().unwrap() ^= 1),
        changed(&|der| der.push(0)),
        changed(&|der| der.truncate(100)),
    ] {
        let ask = Ask {
            csr,
            ..Ask::of(&cart())
        };
        refused(&rig, TOKEN_A, &ask, Code::InvalidArgument, "csr").await;
    }
}

#[tokio::test]
async fn a_key_that_is_not_of_an_allowed_curve() {
    let rig = Rig::start().await;
    for algorithm in [
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let ask = Ask {
            csr: csr(&key, &[&cart().to_string()]),
            ..Ask::of(&cart())
        };
        refused(&rig, TOKEN_A, &ask, Code::InvalidArgument, "csr-key").await;
    }
}

#[tokio::test]
async fn a_node_that_asks_too_often_and_no_other() {
    let rig = Rig::with_burst(2).await;
    rig.place(&[("cart", "a"), ("stock", "b")]);
    let ask = Ask::of(&cart());
    let mut limited = None;
    // Tokens are refilled meanwhile, one a second: a few more requests than the burst may pass.
    for _ in 0..1000 {
        limited = rig.ask(TOKEN_A, &ask).await.err();
        if limited.is_some() {
            break;
        }
    }
    let status = limited.expect("it is refused in the end");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("rule rate-limit"), "{status}");
    rig.ask(TOKEN_B, &Ask::of(&identity("stock")))
        .await
        .unwrap();
}

#[tokio::test]
async fn everybody_while_the_issue_log_can_not_be_written() {
    let rig = Rig::start().await;
    let ask = Ask::of(&cart());
    fs::remove_dir_all(rig.path("log")).unwrap();
    fs::write(rig.path("log"), "in the way").unwrap();
    refused(&rig, TOKEN_A, &ask, Code::Unavailable, "issue-log").await;
    fs::remove_file(rig.path("log")).unwrap();
    rig.ask(TOKEN_A, &ask).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_larger_than_any_should_be() {
    let rig = Rig::start().await;
    let ask = Ask {
        csr: "x".repeat(100_000),
        ..Ask::of(&cart())
    };
    let status = rig.ask(TOKEN_A, &ask).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}
