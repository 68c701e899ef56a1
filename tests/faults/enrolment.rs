//! From a pod's first instruction on, its connections are captured or refused.

use anyhow::{Context, Result, ensure};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, MtlsMode, Pod, PodSpec,
    cni::CniCommand,
    eager::{self, Attempt, Start},
    effort, scenario, wait,
};

use crate::PORT;

/// How many times a pod starts; with a process that connects already, a tenth of it.
const STARTS: usize = 1000;
const CONNECTIONS: usize = 2;

#[test]
fn a_process_that_starts_when_its_pod_is_enrolled_never_talks_in_clear() {
    scenario(starting_client(), async |mesh| {
        // A connection that gets past capture fails.
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        let server = mesh.pod("shop/server");
        let echo = server.echo(PORT)?;
        let capture = mesh.capture()?;
        let starts = effort::times(STARTS);
        for start in 0..starts {
            for attempt in start_client(mesh, Start::WhenTold, start).await? {
                ensure!(attempt.failure.is_none(), "start {start}: {attempt:?}");
            }
        }
        assert_eq!(echo.peers().len(), starts * CONNECTIONS);
        let recording = capture.finish()?;
        assert_eq!(recording.packets_of_port(PORT), 0);
        assert_eq!(recording.flows_with(eager::GREETING), []);
        Ok(())
    });
}

#[test]
fn a_process_that_connects_while_its_pod_is_enrolled_is_captured_from_one_moment_on() {
    let mesh = starting_client().peer_authentication("shop", MtlsMode::Strict);
    scenario(mesh, async |mesh| {
        let _echo = mesh.pod("shop/server").echo(PORT)?;
        for start in 0..effort::times(STARTS / 10) {
            let attempts = start_client(mesh, Start::AtOnce, start).await?;
            let captured = |attempt: &Attempt| attempt.failure.is_none();
            let first = attempts.iter().position(captured).context("none came")?;
            let later = &attempts[first..];
            ensure!(later.iter().all(captured), "start {start}: {attempts:?}");
            let late = later.iter().filter(|attempt| !attempt.early).count();
            ensure!(late == CONNECTIONS, "start {start}: {attempts:?}");
        }
        Ok(())
    });
}

#[test]
fn a_pod_can_not_be_added_while_the_daemon_is_down_and_can_when_it_is_back() {
    scenario(starting_client(), async |mesh| {
        let (node, client) = (mesh.node("a"), mesh.pod("shop/client"));
        node.kill_daemon().await?;
        let refused = mesh.cni(CniCommand::Add, client).await;
        let error = format!("{:#}", refused.expect_err("it was enrolled"));
        assert!(error.contains("no daemon answers"), "{error}");
        node.start_daemon().await?;
        // As runtimes do, with the same sandbox.
        mesh.cni(CniCommand::Add, client).await?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        wait::until("the client reaches the server", async || {
            crate::reaches(client, server, Family::V4).await
        })
        .await
    });
}

fn starting_client() -> MeshBuilder {
    let client = PodSpec::new("shop/client").on("a");
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(client.enrolment(Enrolment::Claimed))
        .pod(PodSpec::new("shop/server").on("b"))
}

/// Enrols the client, tells its process so, and lets go of it when the process has ended.
async fn start_client(mesh: &Mesh, start: Start, number: usize) -> Result<Vec<Attempt>> {
    let (client, server): (&Pod, &Pod) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
    let families = Family::available();
    let to = server.at(families[number % families.len()], PORT);
    let mut process = client.eager(start, to, CONNECTIONS)?;
    mesh.cni(CniCommand::Add, client).await?;
    process.go().await?;
    let attempts = process.ended().await?;
    mesh.cni(CniCommand::Del, client).await?;
    Ok(attempts)
}
