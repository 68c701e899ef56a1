//! A kernel that lacks what capture needs: the daemon says so, and leaves everything as it was.

use std::{fs, path::Path};

use anyhow::Context;
use ztun_tests::{Family, Mesh, PodSpec, app, run::BPFFS, topology};

const PORT: u16 = 8080;

#[test]
fn the_daemon_names_what_is_missing_and_changes_nothing() {
    let mesh = Mesh::builder()
        .nodes(["a", "b"])
        .pod(PodSpec::new("shop/client").on("a"))
        .pod(PodSpec::new("shop/server").on("b"));
    topology(mesh, async |mesh| {
        let started = mesh.node("a").start_daemon().await;
        let refusal = started.err().context("the daemon runs on this kernel")?;
        let refusal = format!("{refusal:#}");
        assert!(refusal.contains("ended at once"), "{refusal}");
        for part in ["ingress_ifindex", "Linux 6.1"] {
            assert!(refusal.contains(part), "{refusal}");
        }

        let verify = mesh.node("a").ztun(&["verify"]).await?;
        let verdict = String::from_utf8(verify.stdout)?;
        assert!(!verify.status.success(), "{verdict}");
        for part in [
            "programs that choose a listener (sk_lookup) (Linux 5.9): found",
            "sk_lookup with ingress_ifindex (Linux 5.17): MISSING",
            "the kernel lacks sk_lookup with ingress_ifindex (since Linux 5.17)",
        ] {
            assert!(verdict.contains(part), "{verdict}");
        }

        let pinned: Vec<_> = fs::read_dir(Path::new(BPFFS))?.collect();
        assert!(pinned.is_empty(), "{pinned:?}");
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        for family in Family::ALL {
            let to = server.at(family, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(app::exchange(&mut stream, "as before").await?, "as before");
        }
        Ok(())
    });
}
