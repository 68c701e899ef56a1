//! `ztun policy migrate` on the documents of the articles: what it prints, ztun itself reads.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;
use tempfile::TempDir;
use ztun::source::kubernetes_objects::{Read, ReadContext, read};
use ztun_tests::daemon;

/// Part of the test itself: it also runs in guests, which have no sources.
const ARTICLES: [(&str, &str); 5] = [
    ("mesh-policy.yaml", include_str!("migrate/mesh-policy.yaml")),
    ("policies.yaml", include_str!("migrate/policies.yaml")),
    (
        "destination-rules.yaml",
        include_str!("migrate/destination-rules.yaml"),
    ),
    ("rbac.yaml", include_str!("migrate/rbac.yaml")),
    ("services.yaml", include_str!("migrate/services.yaml")),
];

#[test]
fn what_the_articles_become_is_read_by_ztun_itself() -> Result<()> {
    let articles = articles()?;
    let output = migrate(&[], articles.path())?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let objects = objects(&output)?;
    assert_eq!(
        objects,
        [
            "PeerAuthentication istio-system/default",
            "PeerAuthentication foo/default",
            "PeerAuthentication bar/httpbin-permissive-httpbin",
            "PeerAuthentication foo/jwt-example-httpbin",
            "AuthorizationPolicy with-istio/deny-by-default",
            "AuthorizationPolicy with-istio/test-app-test-app-chart-couchdb",
        ]
    );
    Ok(())
}

#[test]
fn what_has_no_equivalent_is_listed_with_its_place_and_the_reason() -> Result<()> {
    let articles = articles()?;
    let output = migrate(&[], articles.path())?;
    let list = String::from_utf8(output.stderr)?;
    for (file, what) in [
        (
            "destination-rules.yaml:1",
            "DestinationRule istio-system/default: spec.trafficPolicy.tls.mode: ISTIO_MUTUAL",
        ),
        (
            "destination-rules.yaml:11",
            "DestinationRule legacy/httpbin-legacy: spec.trafficPolicy.tls.mode: DISABLE",
        ),
        (
            "policies.yaml:25",
            "Policy foo/jwt-example: spec.origins: JWTs",
        ),
    ] {
        let place = articles.path().join(file);
        let line = format!("left out: {}: {what}", place.display());
        assert!(list.contains(&line), "{line} is not in {list}");
    }
    let edit = "For ztun, remove spec.rules[0].to ";
    assert!(list.contains(edit), "{list}");
    Ok(())
}

#[test]
fn for_layer_4_the_couchdb_role_allows_every_method_and_says_so() -> Result<()> {
    let articles = articles()?;
    let output = migrate(&["--layer4", "--output", "json"], articles.path())?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr)?, "");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let rules = document
        .pointer("/policies/5/spec/rules")
        .context("no rules")?;
    let principal = "cluster.local/ns/with-istio/sa/test-app-test-app-chart";
    assert_eq!(
        *rules,
        serde_json::json!([{"from": [{"source": {"principals": [principal]}}]}])
    );
    let report = document["report"].as_array().context("no report")?;
    let wider = report.iter().find(|entry| {
        entry["message"] == "now allows more than before: every method, not only GET"
    });
    let wider = wider.with_context(|| format!("{report:#?}"))?;
    assert_eq!(wider["outcome"], "changed");
    assert_eq!(wider["object"], "ServiceRole with-istio/couchdb-reader");
    assert_eq!(wider["field"], "spec.rules[0].methods");
    Ok(())
}

#[test]
fn what_is_translated_in_full_ends_with_0_also_from_stdin() -> Result<()> {
    let (_, mesh_policy) = ARTICLES[0];
    let mut process = command(&[], Path::new("-"))?
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = process.stdin.take().context("no stdin")?;
    stdin.write_all(mesh_policy.as_bytes())?;
    drop(stdin);
    let output = process.wait_with_output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        objects(&output)?,
        ["PeerAuthentication istio-system/default"]
    );
    Ok(())
}

#[test]
fn nothing_is_printed_where_something_cannot_be_read() -> Result<()> {
    let articles = articles()?;
    let broken = articles.path().join("broken.yaml");
    fs::write(&broken, "kind: [\n")?;
    let output = migrate(&[], articles.path())?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout)?, "");
    let errors = String::from_utf8(output.stderr)?;
    let place = format!("{}: not readable", broken.display());
    assert!(errors.contains(&place), "{errors}");
    let missing = articles.path().join("missing");
    assert_eq!(migrate(&[], &missing)?.status.code(), Some(1));
    Ok(())
}

fn articles() -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    for (file, text) in ARTICLES {
        fs::write(directory.path().join(file), text)?;
    }
    Ok(directory)
}

fn migrate(arguments: &[&str], path: &Path) -> Result<Output> {
    Ok(command(arguments, path)?.output()?)
}

fn command(arguments: &[&str], path: &Path) -> Result<Command> {
    let mut command = Command::new(daemon::binary()?);
    command
        .args(["policy", "migrate"])
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// What ztun reads of the printed YAML. A policy that it can't take as it is would be an error.
fn objects(output: &Output) -> Result<Vec<String>> {
    let trust_domain = "cluster.local".parse()?;
    let context = ReadContext {
        trust_domain: &trust_domain,
        root_namespace: "istio-system",
    };
    let text = std::str::from_utf8(&output.stdout)?;
    let documents = serde_norway::Deserializer::from_str(text);
    let keys = documents.map(|document| {
        let value = Value::deserialize(document)?;
        ensure!(value["apiVersion"] == "security.istio.io/v1", "{value}");
        match read(&value, context) {
            Ok(Read::Object(key, _)) => Ok(key.to_string()),
            other => anyhow::bail!("{value}: {other:?}"),
        }
    });
    keys.collect()
}
