//! What operators ask the daemon, and change, while it runs.

use anyhow::Result;
use serde_json::{Value, json};
use ztun_tests::{Mesh, MtlsMode, daemon, scenario};

use crate::shop_and_outsider;

#[test]
fn the_log_filter_is_changed_while_the_daemon_runs() {
    scenario(shop_and_outsider(), async |mesh| {
        assert_eq!(run(mesh, &["log"]).await?.trim(), "info,ztun=debug");
        run(mesh, &["log", "off"]).await?;
        let silent = mesh.node("a").log();
        run(mesh, &["log", "info"]).await?;
        assert_eq!(run(mesh, &["log"]).await?.trim(), "info");
        let log = mesh.node("a").log();
        let new = log.strip_prefix(&silent).unwrap_or_default();
        assert!(new.contains("log filter changed"), "{log}");
        Ok(())
    });
}

#[test]
fn a_log_filter_that_makes_no_sense_is_refused_and_the_one_in_force_stays() {
    scenario(shop_and_outsider(), async |mesh| {
        let output = mesh.node("a").ztun(&["log", "ztun=loud"]).await?;
        assert!(!output.status.success());
        let message = String::from_utf8(output.stderr)?;
        assert!(
            message.contains("`ztun=loud` is no log filter"),
            "{message}"
        );
        assert_eq!(run(mesh, &["log"]).await?.trim(), "info,ztun=debug");
        Ok(())
    });
}

#[test]
fn the_configuration_and_the_mesh_are_printed_as_the_daemon_has_them() {
    let mesh = shop_and_outsider()
        .setting("timeouts.drain", json!("7s"))
        .peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let config: Value = serde_norway::from_str(&run(mesh, &["dump", "config"]).await?)?;
        assert_eq!(config["nodeName"], json!("a"));
        assert_eq!(config["timeouts"]["drain"], json!("7s"));
        assert_eq!(config["timeouts"]["certificate"], json!("10s"), "a default");
        let state: Value = serde_norway::from_str(&run(mesh, &["dump", "mesh"]).await?)?;
        let identities = state["workloads"].as_array().map(|workloads| {
            let identities = workloads.iter().map(|workload| &workload["identity"]);
            identities.cloned().collect::<Vec<_>>()
        });
        let expected = ["shop/client", "shop/server"].map(|pod| json!(mesh.pod(pod).identity()));
        assert_eq!(identities, Some(expected.into()), "{state}");
        assert_eq!(state["services"][0]["ports"], json!([80]), "{state}");
        let strict = json!([{
            "policy": "PeerAuthentication shop/default",
            "target": "every workload of namespace shop",
            "effect": "STRICT",
        }]);
        assert_eq!(state["policies"], strict);
        Ok(())
    });
}

#[test]
fn the_admin_port_answers_as_ztunnels_does_on_loopback() {
    let mesh = shop_and_outsider().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let netns = &mesh.node("a").netns;
        let request = |method, path| daemon::http_request(netns, daemon::ADMIN, method, path);
        let (_, dump) = request("GET", "/config_dump")?;
        let dump: Value = serde_json::from_str(&dump)?;
        assert_eq!(dump["config"]["nodeName"], json!("a"));
        assert_eq!(dump["config"]["adminAddress"], json!("127.0.0.1:15000"));
        assert_eq!(dump["policies"][0]["effect"], json!("STRICT"), "{dump}");
        let of_client = json!(mesh.pod("shop/client").identity());
        assert_eq!(dump["certificates"][0]["identity"], of_client, "{dump}");
        assert_eq!(dump["workloads"].as_array().map(Vec::len), Some(2));

        let level = |text| format!("current log level is {text}\n");
        assert_eq!(request("POST", "/logging")?.1, level("info,ztun=debug"));
        let (_, changed) = request("POST", "/logging?level=warn")?;
        assert_eq!(changed, level("ztun=debug,warn"));
        assert_eq!(run(mesh, &["log"]).await?.trim(), "ztun=debug,warn");
        let (head, told) = request("POST", "/logging?level=loud")?;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(told.contains("`loud` is not a level"), "{told}");
        let (head, _) = request("GET", "/logging?level=info")?;
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
        assert_eq!(
            request("POST", "/logging?reset")?.1,
            level("info,ztun=debug")
        );
        let (_, index) = request("GET", "/")?;
        assert!(index.contains("/config_dump"), "{index}");
        Ok(())
    });
}

async fn run(mesh: &Mesh, arguments: &[&str]) -> Result<String> {
    let output = mesh.node("a").ztun(arguments).await?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}
