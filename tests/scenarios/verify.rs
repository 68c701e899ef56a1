//! `ztun verify`: fails unless every pod is captured, and says why.

use std::process::Output;

use anyhow::Result;
use rtnetlink::IpVersion;
use serde_json::{Value, json};
use ztun_tests::{Enrolment, Node, PodSpec, netlink::Netlink, scenario};

use crate::shop_and_outsider;

/// The mark of captured packets, and a preference ahead of the rules for them.
const MARK: u32 = 0x539;
const BEFORE_CAPTURE: u32 = 50;
const SELF_TEST_PORT: u16 = 9;

#[test]
fn a_node_is_verified_until_a_pod_is_not_captured() {
    let near = PodSpec::new("shop/near").on("a");
    let mesh = shop_and_outsider().pod(near);
    // The daemon is not to repair what is looked for.
    let mesh = mesh.setting("verifyInterval", json!("1h"));
    scenario(mesh, async |mesh| {
        let node = mesh.node("a");
        let (verified, text) = verify(node, &[]).await?;
        assert!(verified, "{text}");
        assert!(text.contains("sk_lookup with ingress_ifindex (Linux 5.17): found"));
        assert!(text.contains("shop/client  captured"), "{text}");

        let root = Netlink::open(&mesh.pod("shop/client").netns)?;
        assert_eq!(root.remove_rules(IpVersion::V4, 100).await?, 1);
        let (verified, text) = verify(node, &[]).await?;
        assert!(!verified, "{text}");
        let problem = "shop/client is not captured: the rule for captured packets is missing";
        assert!(text.contains(problem), "{text}");
        let (verified, json) = verify(node, &["-o", "json"]).await?;
        let json: Value = serde_json::from_str(&json)?;
        assert!(!verified);
        assert_eq!(json["problems"], json!([problem]));
        let (verified, text) = verify(node, &["--pod", "shop/near"]).await?;
        assert!(verified && !text.contains("shop/client"), "{text}");
        Ok(())
    });
}

#[test]
fn what_kernel_state_does_not_show_a_test_connection_does() {
    scenario(shop_and_outsider(), async |mesh| {
        let (node, client) = (mesh.node("a"), mesh.pod("shop/client"));
        // Everything that was made for capture is in place, but another rule comes before it.
        Netlink::open(&client.netns)?
            .add_unreachable_mark(MARK, BEFORE_CAPTURE)
            .await?;
        let (verified, text) = verify(node, &[]).await?;
        assert!(!verified, "{text}");
        let problem = "shop/client is not captured: a test connection over IPV4 did not arrive";
        assert!(text.contains(problem), "{text}");
        Ok(())
    });
}

#[test]
fn a_test_connection_shows_nowhere() {
    scenario(shop_and_outsider(), async |mesh| {
        let node = mesh.node("a");
        let capture = mesh.capture()?;
        let (verified, text) = verify(node, &[]).await?;
        assert!(verified, "{text}");
        assert_eq!(capture.finish()?.packets_of_port(SELF_TEST_PORT), 0);
        assert_eq!(node.status().await?["connections"], json!([]));
        assert!(!node.log().contains("192.0.2."), "{}", node.log());
        Ok(())
    });
}

#[test]
fn a_pod_of_the_mesh_that_nobody_enrolled_fails_it() {
    let missed = PodSpec::new("shop/missed")
        .on("a")
        .enrolment(Enrolment::Claimed);
    scenario(shop_and_outsider().pod(missed), async |mesh| {
        let (verified, text) = verify(mesh.node("a"), &[]).await?;
        assert!(!verified, "{text}");
        assert!(
            text.contains("shop/missed is not captured: in the mesh"),
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn without_a_daemon_the_kernel_is_tried_and_nothing_is_verified() {
    scenario(shop_and_outsider(), async |mesh| {
        let node = mesh.node("a");
        node.kill_daemon().await?;
        let (verified, text) = verify(node, &[]).await?;
        assert!(!verified, "{text}");
        assert!(
            text.contains("ztun's own programs (Linux 5.17): found"),
            "{text}"
        );
        assert!(text.contains("no daemon answers on"), "{text}");
        Ok(())
    });
}

/// Whether it succeeded, and what it printed.
async fn verify(node: &Node, arguments: &[&str]) -> Result<(bool, String)> {
    let Output { status, stdout, .. } = node.ztun(&[&["verify"], arguments].concat()).await?;
    Ok((status.success(), String::from_utf8(stdout)?))
}
