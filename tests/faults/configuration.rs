//! What is wrong with a configuration is told before anything is done.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use anyhow::Result;
use ztun_tests::{Enrolment, Mesh, MeshBuilder, PodSpec, daemon, scenario};

/// A node, and a pod in which further daemons may run without meeting the node's.
fn a_place_to_run() -> MeshBuilder {
    let pod = PodSpec::new("elsewhere/pod").enrolment(Enrolment::Outside);
    Mesh::builder().nodes(["a"]).pod(pod)
}

#[test]
fn a_check_of_a_valid_configuration_prints_what_would_be_used() {
    scenario(a_place_to_run(), async |mesh| {
        let output = node(mesh, &["--check", "--set", "timeouts.drain=7s"]).await?;
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout)?;
        for line in [
            "nodeName: a\n",
            "trustDomain: cluster.local\n",
            "  drain: 7s\n",
        ] {
            assert!(printed.contains(line), "{line} is not in {printed}");
        }
        // What is printed is a configuration itself.
        let file = mesh.scratch("configuration")?.join("printed.yaml");
        fs::write(&file, &printed)?;
        let again = run(mesh, &file, &["--check"]).await?;
        assert_eq!(String::from_utf8(again.stdout)?, printed);
        Ok(())
    });
}

#[test]
fn a_check_of_an_invalid_configuration_tells_every_error() {
    scenario(a_place_to_run(), async |mesh| {
        let file = mesh.scratch("configuration")?.join("wrong.yaml");
        fs::write(
            &file,
            "trustDomain: UPPER CASE\ntimeouts:\n  drain: soon\nlimits:\n  connections: -1\nmeshDirectry: /tmp\n",
        )?;
        let wrong = [
            "--check",
            "--set",
            "sameNode=perhaps",
            "--log-format",
            "xml",
        ];
        let output = run(mesh, &file, &wrong).await?;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stdout)?, "");
        let errors = String::from_utf8(output.stderr)?;
        for name in [
            "6 error(s)",
            "trustDomain",
            "timeouts.drain",
            "limits.connections",
            "did you mean meshDirectory?",
            "sameNode",
            "logFormat",
        ] {
            assert!(errors.contains(name), "{name} is not in {errors}");
        }
        Ok(())
    });
}

#[test]
fn a_daemon_does_not_start_without_its_mesh_directory() {
    scenario(a_place_to_run(), async |mesh| {
        let errors = refused_start(mesh, &["--mesh-directory", "/nonexistent/mesh"]).await?;
        assert!(errors.contains("/nonexistent/mesh"), "{errors}");
        Ok(())
    });
}

#[test]
fn a_daemon_does_not_start_with_a_root_key_that_others_may_read() {
    scenario(a_place_to_run(), async |mesh| {
        let open = mesh.scratch("ca")?;
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700))?;
        for file in ["root-key.pem", "root-cert.pem"] {
            fs::copy(mesh.ca_directory().join(file), open.join(file))?;
        }
        let key = open.join("root-key.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
        let directory = open.display().to_string();
        let errors = refused_start(mesh, &["--ca-directory", &directory]).await?;
        let help = format!("chmod 600 {}", key.display());
        assert!(errors.contains(&help), "{errors}");
        Ok(())
    });
}

#[test]
fn a_daemon_in_another_network_namespace_does_not_take_over() {
    scenario(a_place_to_run(), async |mesh| {
        let output = node(mesh, &[]).await?;
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            errors.contains("the new daemon is in another network namespace"),
            "{errors}"
        );
        mesh.node("a").status().await?;
        Ok(())
    });
}

async fn refused_start(mesh: &Mesh, wrong: &[&str]) -> Result<String> {
    let scratch = mesh.scratch("daemon")?.display().to_string();
    let (socket, state) = (format!("{scratch}/ztun.sock"), format!("{scratch}/state"));
    let own = ["--socket", &socket, "--state-directory", &state];
    let output = node(mesh, &[&own[..], wrong].concat()).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Ok(String::from_utf8(output.stderr)?)
}

/// `ztun node` with the configuration of node a, in a network namespace of its own.
async fn node(mesh: &Mesh, arguments: &[&str]) -> Result<Output> {
    run(mesh, &mesh.node("a").configuration(), arguments).await
}

async fn run(mesh: &Mesh, file: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = mesh.pod("elsewhere/pod").command(daemon::binary()?)?;
    command
        .env_clear()
        .args(["node", "--config"])
        .arg(file)
        .args(arguments);
    Ok(command.output().await?)
}
