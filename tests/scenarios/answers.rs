//! What the command line says of a connection, against what becomes of one.

use std::{fs, path::Path, process::Output};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use ztun_tests::{
    Family, Mesh, MtlsMode, daemon,
    manifest::{Manifest, MeshDirectory},
    scenario, wait,
};

use crate::{PORT, SERVICE_PORT, exchange, shop_with_two_clients};

const OK: i32 = 0;
const ERROR: i32 = 1;
const CONFLICT: i32 = 3;
const PLAINTEXT: i32 = 4;
const DENY: i32 = 3;
const NEWLY_DENIED: i32 = 3;

#[test]
fn tls_check_says_who_is_encrypted_who_is_in_clear_and_who_is_refused() {
    scenario(shop_with_two_clients(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let outsider = mesh.pod("outside/client").v4.to_string();
        for (source, pod, code, row) in [
            ("shop/client", "shop/client", OK, "OK mutual TLS"),
            ("shop/near", "shop/near", OK, "OK same node*"),
            (
                &*outsider,
                "outside/client",
                PLAINTEXT,
                "PLAINTEXT plaintext",
            ),
        ] {
            let expected = format!("{row} mutual TLS and plaintext (PERMISSIVE) -");
            assert_tls(mesh, source, code, &expected).await?;
            exchange(mesh, pod).await?;
        }
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("plaintext is refused", async || {
            exchange(mesh, "outside/client").await.is_err()
        })
        .await?;
        for (source, code, row) in [
            ("shop/client", OK, "OK mutual TLS"),
            ("shop/near", OK, "OK same node*"),
            (&*outsider, CONFLICT, "CONFLICT plaintext"),
        ] {
            // The other node's daemon may hear of the policy later.
            wait::until(format_args!("{source}: STRICT"), async || {
                let expected =
                    format!("{row} mutual TLS only (STRICT) PeerAuthentication shop/default");
                assert_tls(mesh, source, code, &expected).await.is_ok()
            })
            .await?;
        }
        exchange(mesh, "shop/client").await?;
        exchange(mesh, "shop/near").await
    });
}

#[test]
fn tls_check_knows_services_by_their_names_and_all_pairs() {
    scenario(shop_with_two_clients(), async |mesh| {
        let host = "server.shop.svc.cluster.local";
        let address = mesh.service("shop/server").at(Family::V4, SERVICE_PORT);
        let endpoint = mesh.pod("shop/server").at(Family::V4, PORT);
        for destination in [
            format!("service/shop/server:{SERVICE_PORT}"),
            format!("server.shop:{SERVICE_PORT}"),
            format!("{host}:{SERVICE_PORT}"),
            address.to_string(),
        ] {
            let output = ask(mesh, &["tls-check", "shop/client", &destination]).await?;
            let text = said(&output, OK)?;
            assert!(
                text.contains(&endpoint.to_string()),
                "{destination}: {text}"
            );
        }
        let output = ask(mesh, &["tls-check", "--all", "-o", "json"]).await?;
        let checks: Value = serde_json::from_str(&said(&output, OK)?)?;
        let found = checks.as_array().context("no list")?.iter().map(|check| {
            assert_eq!(check["status"], json!("OK"), "{checks}");
            assert_eq!(check["host"], json!(format!("{host}:{SERVICE_PORT}")));
            let pod = &check["endpoint"]["pod"]["name"];
            (
                check["source"].clone(),
                check["client"]["way"].clone(),
                pod.clone(),
            )
        });
        let expected = [
            ("shop/client", "mutual-tls"),
            ("shop/near", "same-node"),
            ("shop/server", "same-node"),
        ];
        let expected = expected.map(|(source, way)| (json!(source), json!(way), json!("server")));
        // By IPv4 and by IPv6.
        let expected = expected.into_iter().flat_map(|row| [row.clone(), row]);
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn what_cannot_be_told_is_said_with_a_way_out() {
    scenario(shop_with_two_clients(), async |mesh| {
        for (arguments, expected) in [
            (
                ["tls-check", "shop/client", "shop/server:80"],
                "shop/server is both a workload and a service: write pod/shop/server or",
            ),
            (
                ["tls-check", "shop/cleint", "service/shop/server:80"],
                "no pod or workload shop/cleint: did you mean shop/client?",
            ),
            (
                ["tls-check", "shop/client", "service/shop/server:81"],
                "service shop/server has no port 81",
            ),
            (
                ["tls-check", "service/shop/server", "pod/shop/server:80"],
                "service/shop/server is a service, and connections come from workloads",
            ),
        ] {
            let output = ask(mesh, &arguments).await?;
            assert_eq!(output.status.code(), Some(ERROR), "{output:?}");
            let error = String::from_utf8(output.stderr)?;
            assert!(error.contains(expected), "{error}");
        }
        Ok(())
    });
}

#[test]
fn authz_explain_says_what_happens_and_why() {
    scenario(shop_with_two_clients(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let outsider = mesh.pod("outside/client").v4.to_string();
        let sources = [
            ("shop/client", "shop/client"),
            ("shop/near", "shop/near"),
            (&*outsider, "outside/client"),
        ];
        let client = mesh.pod("shop/client").principal();
        let near = mesh.pod("shop/near").principal();
        let (denied_client, denied_near) = (mismatch(&client), mismatch(&near));
        let plaintext = mismatch("no identity: the connection is plaintext");
        let cases = [
            (
                "ALLOW",
                json!({ "principals": [client] }),
                [ALLOWED, &denied_near, &plaintext],
            ),
            (
                "ALLOW",
                json!({ "principals": [near] }),
                [&denied_client, ALLOWED, &plaintext],
            ),
            (
                "DENY",
                json!({ "principals": [near] }),
                [LET_IN, DENIED, LET_IN],
            ),
            (
                "DENY",
                json!({ "ipBlocks": [outsider] }),
                [LET_IN, LET_IN, DENIED],
            ),
        ];
        for (action, source, reasons) in cases {
            let policy = policy(action, &source);
            mesh.apply(&policy)?;
            wait::until("the policy is in force", async || {
                let text = explain(mesh, "shop/client").await;
                text.is_ok_and(|(_, text)| text.contains("AuthorizationPolicy shop/server"))
            })
            .await?;
            for ((name, pod), reason) in sources.into_iter().zip(reasons) {
                let (code, text) = explain(mesh, name).await?;
                assert!(text.contains(reason), "{action} {source}: {name}: {text}");
                let (expected, verdict) = match exchange(mesh, pod).await {
                    Ok(()) => (OK, "ALLOW  "),
                    Err(_) => (DENY, "DENY  "),
                };
                assert_eq!(code, Some(expected), "{action} {source}: {name}: {text}");
                assert!(text.starts_with(verdict), "{text}");
            }
            mesh.directory.remove(&policy)?;
            wait::until("the policy is gone", async || {
                let text = explain(mesh, "shop/client").await;
                text.is_ok_and(|(_, text)| !text.contains("AuthorizationPolicy"))
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn policies_are_tried_against_what_the_daemon_logged() {
    let denied = "cluster.local/ns/shop/sa/client";
    for format in ["json", "text"] {
        let mesh = shop_with_two_clients()
            .setting("logFormat", json!(format))
            .manifest(policy("DENY", &json!({ "principals": [denied] })));
        scenario(mesh, async |mesh| {
            let _echo = mesh.pod("shop/server").echo(PORT)?;
            exchange(mesh, "shop/near").await?;
            exchange(mesh, "outside/client").await?;
            assert!(exchange(mesh, "shop/client").await.is_err());
            let node = mesh.node("b");
            let outsider = mesh.pod("outside/client").v4.to_string();
            wait::until("all are logged", async || {
                let log = node.log();
                let logged = |text: &str| {
                    let mut lines = log.lines();
                    lines.any(|line| line.contains("inbound") && line.contains(text))
                };
                [denied, "sa/near", &outsider].into_iter().all(logged)
            })
            .await?;
            let (flows, proposal) = (mesh.scratch("flows")?.join("log"), mesh.scratch("mesh")?);
            fs::write(&flows, node.log())?;
            for entry in fs::read_dir(mesh.directory.path())? {
                let entry = entry?;
                fs::copy(entry.path(), proposal.join(entry.file_name()))?;
            }
            let same = simulate(&flows, &proposal, OK).await?;
            let changes = (&same["newlyDenied"], &same["newlyAllowed"]);
            assert_eq!(changes, (&json!([]), &json!([])), "{same}");
            let counts = (&same["stillDenied"], &same["stillAllowed"]);
            assert_eq!(counts, (&json!(1), &json!(2)), "{same}");

            let other = policy("DENY", &json!({ "ipBlocks": [outsider] }));
            MeshDirectory::create(proposal.clone())?.apply(&other)?;
            let changed = simulate(&flows, &proposal, NEWLY_DENIED).await?;
            let only = |changes: &Value, field: &str| {
                assert_eq!(changes.as_array().map(Vec::len), Some(1), "{changed}");
                changes[0]["flow"][field].clone()
            };
            let newly_denied = only(&changed["newlyDenied"], "sourceAddress");
            assert_eq!(newly_denied, json!(outsider));
            let newly_allowed = only(&changed["newlyAllowed"], "sourceIdentity");
            assert_eq!(newly_allowed, json!(mesh.pod("shop/client").identity()));
            Ok(())
        });
    }
}

const ALLOWED: &str = "allowed by AuthorizationPolicy shop/server, rules[0]";
const DENIED: &str = "DENY AuthorizationPolicy shop/server matches by rules[0]";
const LET_IN: &str = "no policy denies it, and none has to allow it";

fn mismatch(seen: &str) -> String {
    format!("rules[0].from[0].source.principals does not match: it sees {seen}")
}

async fn simulate(flows: &Path, proposal: &Path, code: i32) -> Result<Value> {
    let output = Command::new(daemon::binary()?)
        .args(["policy", "simulate", "-o", "json", "--against"])
        .args([flows, proposal])
        .output()
        .await
        .context("run ztun policy simulate")?;
    Ok(serde_json::from_str(&said(&output, code)?)?)
}

/// Of the source and the server's own port, by the server's daemon.
async fn explain(mesh: &Mesh, source: &str) -> Result<(Option<i32>, String)> {
    let destination = format!("pod/shop/server:{PORT}");
    let arguments = ["authz", "explain", source, &destination];
    let output = mesh.node("b").ztun(&arguments).await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

/// Expects one row that ends so, without regard to the columns' widths.
async fn assert_tls(mesh: &Mesh, source: &str, code: i32, end: &str) -> Result<()> {
    let destination = format!("pod/shop/server:{PORT}");
    let text = said(
        &ask(mesh, &["tls-check", source, &destination]).await?,
        code,
    )?;
    let row = text.lines().nth(1).context("no row")?;
    let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        row.ends_with(end),
        "{source}: {row} does not end with {end}"
    );
    Ok(())
}

async fn ask(mesh: &Mesh, arguments: &[&str]) -> Result<Output> {
    mesh.node("a").ztun(arguments).await
}

/// What was printed, if it ended with `code`.
fn said(output: &Output, code: i32) -> Result<String> {
    ensure!(output.status.code() == Some(code), "not {code}: {output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

fn policy(action: &str, source: &Value) -> Manifest {
    let spec = json!({
            "selector": { "matchLabels": { "app": "server" } },
            "action": action,
            "rules": [{ "from": [{ "source": source }] }],
    });
    Manifest::authorization_policy("shop", "server", &spec)
}
