//! The CA's API, used by a client of another making: Python's grpcio with stubs of its own. What it gets is
//! read by Python's `cryptography`.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use ztun_tests::{
    ca::{self, Ca, CaPlace, TOKENS, identity},
    scenario,
};

const PYTHON: &str = "/usr/bin/python3";
const CLIENT: &str = include_str!("ca_client.py");
const PROTO: &str = include_str!("../../ztun/proto/istio/ca.proto");
const DAY: f64 = 86_400.0;

/// Whether the test can run here; says so if not.
fn is_able(test: &str) -> bool {
    let modules = ["grpc", "grpc_tools", "cryptography", "google/protobuf"];
    let packages = Path::new("/usr/lib/python3/dist-packages");
    let missing = modules
        .into_iter()
        .find(|module| !packages.join(module).exists());
    let reason = match (Path::new(PYTHON).exists(), missing) {
        (false, _) => format!("needs {PYTHON}"),
        (true, Some(module)) => format!("needs Python's {module}: install it"),
        (true, None) => return true,
    };
    scenario::skip(test, &reason);
    false
}

fn python(place: &CaPlace, arguments: &[&str], input: &str) -> String {
    let script = place.path("ca_client.py");
    fs::write(&script, CLIENT).unwrap();
    let mut process = Command::new(PYTHON)
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Asks for `cart`'s certificate as node a, but for what `change` says.
fn ask(place: &CaPlace, ca: &Ca, root: &str, change: &Value) -> Value {
    let proto = place.path("ca.proto");
    fs::write(&proto, PROTO).unwrap();
    let own = identity("cart").to_string();
    let mut request = json!({
        "address": format!("localhost:{}", ca.address.port()),
        "root": root,
        "token": TOKENS[0],
        "identity": own,
        "names": [own],
        "seconds": 3600,
    });
    for (key, value) in change.as_object().unwrap() {
        request[key] = value.clone();
    }
    let arguments = ["ask", proto.to_str().unwrap()];
    serde_json::from_str(&python(place, &arguments, &request.to_string())).unwrap()
}

#[test]
fn an_independent_client_gets_a_certificate_that_an_independent_parser_finds_in_order() {
    if !is_able(
        "an_independent_client_gets_a_certificate_that_an_independent_parser_finds_in_order",
    ) {
        return;
    }
    let place = CaPlace::new().unwrap();
    let ca = place.start("ca", &[]).unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    let answer = ask(&place, &ca, &root, &json!({ "seconds": 1_000_000 }));
    assert_eq!(answer["code"], "OK", "{answer}");
    let [leaf, root] = &answer["chain"].as_array().unwrap()[..] else {
        panic!("{answer}");
    };
    assert_eq!(answer["signed"], true);
    assert_eq!(answer["ownKey"], true);
    let name = format!("UniformResourceIdentifier:{}", identity("cart"));
    assert_eq!(leaf["names"], json!([name]));
    assert_eq!(
        leaf["namesCritical"], true,
        "RFC 5280 4.1.2.6: the subject is empty"
    );
    assert_eq!(leaf["subject"], "");
    assert_eq!(leaf["version"], "v3");
    assert_eq!(
        leaf["keyUsage"],
        json!(["digital_signature", "key_encipherment"])
    );
    assert_eq!(leaf["purposes"], json!(["clientAuth", "serverAuth"]));
    assert_eq!((&leaf["ca"], &root["ca"]), (&json!(false), &json!(true)));
    assert_eq!(root["keyUsage"], json!(["key_cert_sign", "crl_sign"]));
    assert_eq!(leaf["authorityKey"], true);
    // Clamped to maxLifetime.
    let seconds = leaf["seconds"].as_f64().unwrap();
    assert!((DAY - 600.0..=DAY).contains(&seconds), "{seconds}");
    let log = fs::read_to_string(place.path("ca/issued.jsonl")).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(line["serial"], leaf["serial"]);
}

#[test]
fn an_independent_client_is_told_each_refusal_by_its_code_and_rule() {
    if !is_able("an_independent_client_is_told_each_refusal_by_its_code_and_rule") {
        return;
    }
    let place = CaPlace::new().unwrap();
    let ca = place.start("ca", &[]).unwrap();
    let root = ca::roots_in(&place.path("ca/ca")).unwrap();
    let stock = identity("stock").to_string();
    for (change, code, rule) in [
        (
            json!({ "token": "unknown" }),
            "UNAUTHENTICATED",
            "unauthenticated",
        ),
        (
            json!({ "identity": stock, "names": [stock] }),
            "PERMISSION_DENIED",
            "not-on-node",
        ),
        (json!({ "names": [stock] }), "INVALID_ARGUMENT", "csr-names"),
        (json!({ "names": [] }), "INVALID_ARGUMENT", "csr-names"),
        (
            json!({ "identity": null }),
            "INVALID_ARGUMENT",
            "no-identity",
        ),
    ] {
        let answer = ask(&place, &ca, &root, &change);
        assert_eq!(answer["code"], code, "{change}: {answer}");
        let details = answer["details"].as_str().unwrap();
        let expected = format!("refused by rule {rule}: ");
        assert!(details.starts_with(&expected), "{change}: {details}");
    }
    assert_eq!(
        fs::read_to_string(place.path("ca/issued.jsonl")).unwrap(),
        ""
    );
}

#[test]
fn replicas_sign_below_a_root_that_others_made_and_are_interchangeable() {
    if !is_able("replicas_sign_below_a_root_that_others_made_and_are_interchangeable") {
        return;
    }
    let place = CaPlace::new().unwrap();
    let secret = place.path("secret");
    fs::create_dir(&secret).unwrap();
    python(&place, &["secret", secret.to_str().unwrap()], "");
    let file = |name: &str| secret.join(name).display().to_string();
    let (key, chain, root) = (
        file("ca-key.pem"),
        file("cert-chain.pem"),
        file("root-cert.pem"),
    );
    let settings = [
        ("keyFile", &*key),
        ("chainFile", &chain),
        ("rootFile", &root),
    ];
    let root = fs::read_to_string(&root).unwrap();
    let [one, other] = ["one", "other"].map(|name| {
        let ca = place.start(name, &settings).unwrap();
        ask(&place, &ca, &root, &json!({}))
    });
    for answer in [&one, &other] {
        assert_eq!(answer["signed"], true, "{answer}");
        let subjects: Vec<_> = answer["chain"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["subject"])
            .collect();
        assert_eq!(subjects, ["", "CN=Intermediate", "CN=Root"]);
        assert_eq!(answer["roots"], 1);
    }
    assert_ne!(one["chain"][0]["serial"], other["chain"][0]["serial"]);
    let above = |answer: &Value| answer["elements"].as_array().unwrap()[1..].to_vec();
    assert_eq!(above(&one), above(&other));
}
