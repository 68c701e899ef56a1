//! The walk `audit`: policies that decide nothing block nothing, and say what they would have done.

use anyhow::Result;
use serde_json::{Value, json};
use ztun_tests::{Node, manifest::Manifest, scenario, wait};

use crate::{PORT, exchange, shop_and_outsider};

#[test]
fn audit() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        let node = mesh.node("b");
        exchange(mesh, "shop/client").await?;
        assert_eq!(findings(node, "server", "would-deny")?, 0);

        let from_outside = json!([{ "from": [{ "source": { "notPrincipals": ["*"] } }] }]);
        mesh.apply(&policy(
            "try-out",
            &json!({ "action": "DENY", "rules": from_outside }),
            true,
        ))?;
        let everything = json!([{}]);
        mesh.apply(&policy(
            "watch",
            &json!({ "action": "AUDIT", "rules": everything }),
            false,
        ))?;
        wait::until("the policies are known", async || {
            exchange(mesh, "outside/client").await.is_ok()
                && findings(node, "watch", "matched").is_ok_and(|matched| matched > 0)
        })
        .await?;

        let before = findings(node, "try-out", "would-deny")?;
        for _ in 0..3 {
            exchange(mesh, "outside/client").await?;
            exchange(mesh, "shop/client").await?;
        }
        assert_eq!(findings(node, "try-out", "would-deny")? - before, 3);
        assert_eq!(node.counted("ztun_policy_denials_total", &[])?, 0);
        let told = "AuthorizationPolicy shop/try-out would-deny (rules[0])";
        wait::until("the access log says so", async || {
            node.log()
                .lines()
                .any(|line| line.contains("connection complete") && line.contains(told))
        })
        .await
    });
}

fn policy(name: &str, spec: &Value, dry_run: bool) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "annotations": { "istio.io/dry-run": dry_run.to_string() },
        },
        "spec": spec,
    }))
}

/// How often a policy of the shop had this to say.
fn findings(node: &Node, name: &str, outcome: &str) -> Result<u64> {
    let policy = format!("AuthorizationPolicy shop/{name}");
    let labels = [("policy", policy.as_str()), ("outcome", outcome)];
    node.counted("ztun_policy_audit_total", &labels)
}
