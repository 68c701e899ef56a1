//! The walk `fruits-catalog`: a web application uses a database, here a real `MariaDB` on the article's port,
//! and its operator asks what is going on between them.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use ztun_tests::{
    Family, Mesh, MtlsMode, PodSpec, ServiceSpec, scenario,
    servers::{Server, client},
    wait,
};

const PORT: u16 = 27017;
const CATALOG: &str = "fruits/fruits-catalog";
const DATABASE: &str = "fruits/database";
const DATABASE_HOST: &str = "database.fruits.svc.cluster.local";

#[test]
fn fruits_catalog() {
    let account = "fruits-catalog";
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new(CATALOG).on("a").service_account(account))
        .pod(PodSpec::new(DATABASE).on("b"))
        .service(ServiceSpec::new(DATABASE).port(PORT, PORT))
        .needs("mariadbd")
        .needs("mariadb");
    scenario(mesh, async |mesh| {
        let _mariadb = Server::mariadb(mesh, mesh.pod(DATABASE), PORT).await?;
        let fruits = "CREATE TABLE test.fruits (name VARCHAR(20));
            INSERT INTO test.fruits VALUES ('orange');";
        let fill = arguments(mesh, Some(fruits));
        let fill: Vec<&str> = fill.iter().map(String::as_str).collect();
        client(mesh.pod(CATALOG), "mariadb", &fill)
            .await
            .context("fill the catalog")?;

        tls_check(mesh, "mutual TLS and plaintext (PERMISSIVE) -").await?;
        // A connection stays while the operator looks, and while the policy comes.
        let mut session = mesh
            .pod(CATALOG)
            .command("mariadb")?
            .args(arguments(mesh, None))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start mariadb")?;
        let mut statements = session.stdin.take().context("no stdin")?;
        let answers = session.stdout.take().context("no stdout")?;
        let mut answers = BufReader::new(answers).lines();
        let mut ask = async || -> Result<Option<String>> {
            statements
                .write_all(b"SELECT name FROM test.fruits;\n")
                .await?;
            Ok(answers.next_line().await?)
        };
        assert_eq!(ask().await?.as_deref(), Some("orange"));
        let (from, to) = (mesh.pod(CATALOG), mesh.pod(DATABASE));
        for node in ["a", "b"] {
            let edge = edge(
                &mesh.node(node).status().await?,
                &to.at(Family::V4, PORT).to_string(),
            )?;
            assert_eq!(edge["security"], json!("mutual-tls"), "{edge}");
            assert_eq!(edge["encrypted"], json!(true), "{edge}");
            assert_eq!(edge["source"]["identity"], json!(from.identity()), "{edge}");
            assert_eq!(
                edge["destination"]["identity"],
                json!(to.identity()),
                "{edge}"
            );
        }

        mesh.set_mtls("fruits", MtlsMode::Strict)?;
        wait::until("tls-check names the policy", async || {
            let row = "mutual TLS only (STRICT) PeerAuthentication fruits/default";
            tls_check(mesh, row).await.is_ok()
        })
        .await?;
        assert_eq!(ask().await?.as_deref(), Some("orange"));
        Ok(())
    });
}

/// Of `mariadb`, to run a statement or else what it reads.
fn arguments(mesh: &Mesh, statement: Option<&str>) -> Vec<String> {
    let host = mesh.service(DATABASE).at(Family::V4, PORT).ip();
    let fixed = [
        "--no-defaults",
        "--protocol=tcp",
        "--skip-ssl",
        "--batch",
        "--unbuffered",
        "--skip-column-names",
    ];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    arguments.extend([format!("--host={host}"), format!("--port={PORT}")]);
    arguments.extend(statement.map(|statement| format!("--execute={statement}")));
    arguments
}

/// Expects OK with mutual TLS, and a row that ends so.
async fn tls_check(mesh: &Mesh, end: &str) -> Result<()> {
    let destination = format!("{DATABASE_HOST}:{PORT}");
    let output = mesh
        .node("a")
        .ztun(&["tls-check", CATALOG, &destination])
        .await?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let row = text.lines().nth(1).context("no row")?;
    let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = format!("OK mutual TLS {end}");
    ensure!(row.ends_with(&end), "{row} does not end with {end}");
    Ok(())
}

/// The connection to `destination` that a daemon shows.
fn edge(status: &Value, destination: &str) -> Result<Value> {
    let connections = status["connections"].as_array().context("no connections")?;
    let edge = connections
        .iter()
        .find(|edge| edge["destination"]["address"] == destination);
    edge.cloned()
        .with_context(|| format!("no edge to {destination} in {status}"))
}
