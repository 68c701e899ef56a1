//! `ztun certs`: what it says of this node's certificates, and of those in files.

use std::{fs, path::PathBuf, process::Output};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use ztun_tests::{
    Mesh,
    rogue::{Claims, Credentials},
    scenario,
};

use crate::shop_and_outsider;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

#[test]
fn each_identity_is_listed_with_its_chain_and_the_root_that_proves_it() {
    scenario(shop_and_outsider(), async |mesh| {
        let listed: Value = serde_json::from_str(&certs(mesh, &["-o", "json"]).await?)?;
        let [certificate] = &listed.as_array().context("no list")?[..] else {
            panic!("not one certificate: {listed}");
        };
        let status = mesh.node("a").status().await?;
        for field in ["identity", "serial", "issuer", "notAfter", "rotatesAt"] {
            assert_eq!(certificate[field], status["certificates"][0][field]);
            assert!(certificate[field].is_string(), "{field} in {certificate}");
        }
        let [leaf, root] = &certificate["chain"].as_array().context("no chain")?[..] else {
            panic!("not a leaf and a root: {certificate}");
        };
        assert_eq!(leaf["names"], json!([mesh.pod("shop/client").identity()]));
        assert_eq!(leaf["serial"], certificate["serial"]);
        assert_eq!(leaf["issuer"], root["subject"]);
        assert_eq!(certificate["verifiedBy"], *root);
        assert_eq!(certificate["refused"], Value::Null);

        let table = certs(mesh, &[]).await?;
        let row = table.lines().nth(1).context("no row")?;
        let short = |certificate: &Value| -> Result<String> {
            let fingerprint = certificate["fingerprint"].as_str().context("none")?;
            Ok(fingerprint[..12].to_owned())
        };
        let chain = format!("{} < {}", short(leaf)?, short(root)?);
        assert!(row.contains(&chain), "{table}");
        assert!(row.ends_with("  -"), "{table}");
        Ok(())
    });
}

#[test]
fn what_is_printed_as_pem_is_accepted_and_holds_no_key() {
    scenario(shop_and_outsider(), async |mesh| {
        let pem = certs(mesh, &["-o", "pem", "--identity", CLIENT]).await?;
        assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 2);
        assert!(!pem.contains("PRIVATE KEY"), "{pem}");
        let json = certs(mesh, &["-o", "json"]).await?;
        assert!(!json.contains("PRIVATE KEY"), "{json}");

        let (output, judged) = verify(mesh, "own.pem", &pem).await?;
        assert!(output.status.success(), "{judged}");
        assert!(
            judged.contains(&format!("identity: {CLIENT}\n")),
            "{judged}"
        );
        for role in ["client", "server"] {
            let accepted = format!("as a {role}: accepted, by root ");
            assert!(judged.contains(&accepted), "{judged}");
        }
        assert!(judged.contains("digital signature"), "{judged}");
        Ok(())
    });
}

#[test]
fn an_identity_that_the_node_does_not_have_is_an_error() {
    scenario(shop_and_outsider(), async |mesh| {
        let nobody = "spiffe://cluster.local/ns/shop/sa/nobody";
        let output = mesh
            .node("a")
            .ztun(&["certs", "--identity", nobody])
            .await?;
        assert!(!output.status.success());
        let message = String::from_utf8(output.stderr)?;
        assert!(message.contains(nobody), "{message}");
        Ok(())
    });
}

#[test]
fn a_certificate_that_peers_would_refuse_is_refused_with_the_reason() {
    scenario(shop_and_outsider(), async |mesh| {
        let ca = mesh.ca_directory();
        let elsewhere = "spiffe://elsewhere.example/ns/shop/sa/client";
        for (name, credentials, reason) in [
            (
                "foreign.pem",
                Credentials::forge(&Claims::of(CLIENT)?)?,
                "not signed by a root",
            ),
            (
                "expired.pem",
                Credentials::issue(&ca, &Claims::of(CLIENT)?.expired())?,
                "the certificate presented expired at",
            ),
            (
                "nameless.pem",
                Credentials::issue(&ca, &Claims::dns("client.shop")?)?,
                "has no SPIFFE identity",
            ),
            (
                "elsewhere.pem",
                Credentials::issue(&ca, &Claims::of(elsewhere)?)?,
                "elsewhere.example/ns/shop/sa/client, whose trust domain this mesh does not trust",
            ),
        ] {
            let (output, judged) = verify(mesh, name, credentials.certificate_pem()).await?;
            assert_eq!(output.status.code(), Some(1), "{judged}");
            let refused = judged.lines().find(|line| line.contains("REFUSED"));
            assert!(
                refused.is_some_and(|line| line.contains(reason)),
                "{name}: {judged}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_file_without_a_certificate_is_an_error() {
    scenario(shop_and_outsider(), async |mesh| {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        ] {
            let (output, _) = verify(mesh, "empty.pem", text).await?;
            assert_eq!(output.status.code(), Some(1));
            let message = String::from_utf8(output.stderr)?;
            assert!(message.contains("holds no certificate"), "{message}");
        }
        Ok(())
    });
}

async fn certs(mesh: &Mesh, options: &[&str]) -> Result<String> {
    let arguments = [&["certs"], options].concat();
    let output = mesh.node("a").ztun(&arguments).await?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Writes a file and has the first node's daemon judge it.
async fn verify(mesh: &Mesh, name: &str, pem: &str) -> Result<(Output, String)> {
    let file: PathBuf = mesh.scratch("certs")?.join(name);
    fs::write(&file, pem)?;
    let file = file.to_str().context("a path is text")?;
    let output = mesh.node("a").ztun(&["certs", "verify", file]).await?;
    let judged = String::from_utf8(output.stdout.clone())?;
    Ok((output, judged))
}
