//! What the daemon has given up by the time it is ready.

use std::{collections::BTreeMap, fs, os::unix::process::ExitStatusExt, path::Path};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::json;
use ztun_tests::{Node, scenario};

use crate::{PORT, exchange, shop_and_outsider};

/// Bits of `linux/capability.h`.
const KEPT: [(&str, u32); 3] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_PTRACE", 19),
];
const NET_BIND_SERVICE: u32 = 10;

#[test]
fn every_thread_has_the_needed_capabilities_alone_and_no_way_to_others() {
    scenario(shop_and_outsider(), async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        // Threads of their own were at work.
        exchange(mesh, "shop/client").await?;
        let node = mesh.node("a");
        let kept = KEPT.map(|(_, bit)| bit);
        each_thread_has(node, &kept).await?;

        let names = KEPT.map(|(name, _)| name);
        let status = node.status().await?;
        let shown = json!({ "capabilities": names, "missing": [] });
        assert_eq!(status["privileges"], shown);
        let table = node.ztun(&["status"]).await?.stdout;
        let line = format!("capabilities: {}\n", names.join(" "));
        assert!(String::from_utf8(table)?.contains(&line));
        assert!(node.log().contains("every other capability is given up"));
        Ok(())
    });
}

#[test]
fn a_daemon_that_is_to_listen_on_a_low_port_may() {
    let mesh = shop_and_outsider().setting("metricsAddress", json!("127.0.0.1:1020"));
    scenario(mesh, async |mesh| {
        let kept: Vec<u32> = KEPT.iter().map(|(_, bit)| *bit).collect();
        each_thread_has(mesh.node("a"), &[&kept[..], &[NET_BIND_SERVICE]].concat()).await
    });
}

#[test]
fn a_daemon_that_crashes_leaves_no_core() {
    scenario(shop_and_outsider(), async |mesh| {
        let node = mesh.node("a");
        let limits = fs::read_to_string(process(node).await?.join("limits"))?;
        let cores = limits.lines().find(|line| line.starts_with("Max core"));
        let words: Vec<_> = cores.context("no limit")?.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{limits}");
        let ended = node.crash_daemon(Signal::SIGABRT).await?;
        assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32));
        assert!(!ended.core_dumped());
        Ok(())
    });
}

async fn each_thread_has(node: &Node, capabilities: &[u32]) -> Result<()> {
    let set: u64 = capabilities.iter().map(|bit| 1 << bit).sum();
    let expected = [
        ("CapInh", "0000000000000000".to_owned()),
        ("CapPrm", format!("{set:016x}")),
        ("CapEff", format!("{set:016x}")),
        ("CapBnd", format!("{set:016x}")),
        ("CapAmb", "0000000000000000".to_owned()),
        ("NoNewPrivs", "1".to_owned()),
    ];
    let mut threads = 0;
    for thread in fs::read_dir(process(node).await?.join("task"))? {
        // Threads of the runtime come and go.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let fields: BTreeMap<_, _> = status
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .collect();
        for (name, value) in &expected {
            assert_eq!(
                fields.get(name),
                Some(&value.as_str()),
                "{name} in {status}"
            );
        }
        threads += 1;
    }
    assert!(threads > 1, "the daemon has one thread only");
    Ok(())
}

async fn process(node: &Node) -> Result<std::path::PathBuf> {
    Ok(Path::new("/proc").join(node.daemon_pid().await?.to_string()))
}
