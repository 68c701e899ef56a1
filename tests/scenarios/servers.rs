//! nginx, Redis and `MariaDB`, each driven by its real client from another node.

use anyhow::Result;
use ztun_tests::{
    Family, Mesh, MeshBuilder, PodSpec, ServiceSpec,
    capture::Capture,
    rogue::HBONE_PORT,
    scenario,
    servers::{MARIADB_PORT, NGINX_PORT, REDIS_PORT, Server, client},
};

const MARKER: &str = "marker-of-a-real-server";

fn server(port: u16) -> MeshBuilder {
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"))
        .service(ServiceSpec::new("shop/server").port(port, port))
}

#[test]
fn nginx_serves_curl() {
    let mesh = server(NGINX_PORT).needs("nginx").needs("curl");
    scenario(mesh, async |mesh| {
        let large = MARKER.repeat(1 << 20);
        let files = [("small", MARKER.as_bytes()), ("large", large.as_bytes())];
        let _nginx = Server::nginx(mesh, mesh.pod("shop/server"), &files).await?;
        let pod = mesh.pod("shop/client");
        let capture = mesh.capture()?;
        for family in [Family::V4, Family::V6] {
            let base = format!(
                "http://{}",
                mesh.service("shop/server").at(family, NGINX_PORT)
            );
            let curl = async |path: &str| {
                let url = format!("{base}/{path}");
                client(pod, "curl", &["-sS", "--fail", "--max-time", "60", &url]).await
            };
            assert_eq!(curl("small").await?, MARKER);
            assert!(curl("large").await? == large, "the large file differs");
            let own = pod.at(family, 0).ip().to_string();
            assert_eq!(curl("client").await?, own);
        }
        crossed_encrypted(capture)
    });
}

#[test]
fn redis_serves_its_own_client() {
    let mesh = server(REDIS_PORT).needs("redis-server").needs("redis-cli");
    scenario(mesh, async |mesh| {
        let _redis = Server::redis(mesh, mesh.pod("shop/server")).await?;
        let pod = mesh.pod("shop/client");
        let capture = mesh.capture()?;
        for family in [Family::V4, Family::V6] {
            let host = mesh.service("shop/server").at(family, 0).ip().to_string();
            let redis = async |command: &[&str]| {
                let arguments = [&["-h", &host][..], command].concat();
                client(pod, "redis-cli", &arguments).await
            };
            assert_eq!(redis(&["SET", "key", MARKER]).await?, "OK");
            assert_eq!(redis(&["GET", "key"]).await?, MARKER);
            let who = redis(&["CLIENT", "INFO"]).await?;
            let own = pod.at(family, 0).ip().to_string();
            assert!(who.contains(&own), "{own} is not the client in {who}");
        }
        crossed_encrypted(capture)
    });
}

#[test]
fn mariadb_serves_its_own_client() {
    let mesh = server(MARIADB_PORT).needs("mariadbd").needs("mariadb");
    scenario(mesh, async |mesh| {
        let _mariadb = Server::mariadb(mesh, mesh.pod("shop/server"), MARIADB_PORT).await?;
        let pod = mesh.pod("shop/client");
        let capture = mesh.capture()?;
        for family in [Family::V4, Family::V6] {
            let host = mesh.service("shop/server").at(family, 0).ip().to_string();
            let statements = format!(
                "CREATE OR REPLACE TABLE test.notes (text VARCHAR(100));
                 INSERT INTO test.notes VALUES ('{MARKER}');
                 SELECT text FROM test.notes;"
            );
            let answer = client(
                pod,
                "mariadb",
                &[
                    "--no-defaults",
                    "--protocol=tcp",
                    "--skip-ssl",
                    "--batch",
                    "--skip-column-names",
                    &format!("--host={host}"),
                    &format!("--execute={statements}"),
                ],
            )
            .await?;
            assert_eq!(answer, MARKER);
        }
        crossed_encrypted(capture)
    });
}

fn crossed_encrypted(capture: Capture) -> Result<()> {
    let recording = capture.finish()?;
    assert!(recording.packets_of_port(HBONE_PORT) > 0);
    assert_eq!(recording.flows_with(MARKER), []);
    Ok(())
}
