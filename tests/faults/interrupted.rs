//! Daemons that are killed at random moments: nothing is half done, and nothing is open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;
use ztun_tests::{
    Enrolment, Mesh, PodSpec,
    cni::CniCommand,
    effort::{self, Moments},
    scenario,
};

use crate::closed::{is_closed, two_nodes, works};

/// How often a daemon is killed while it starts, and while it enrols.
const MOMENTS: usize = 50;

#[test]
fn a_daemon_that_is_killed_while_it_starts_leaves_its_pods_closed() {
    scenario(two_nodes(PodSpec::new("shop/pod")), async |mesh| {
        let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
        let begun = Instant::now();
        node.kill_daemon().await?;
        node.start_daemon().await?;
        let start = begun.elapsed();
        let (mut moments, mut tried) = (Moments::new(), 0);
        let times = effort::times(MOMENTS);
        for _ in 0..times {
            node.kill_daemon().await?;
            let after = moments.before(start);
            let round = async {
                node.launch_daemon().await?;
                sleep(after).await;
                node.kill_daemon().await?;
                tried += is_closed(mesh, pod).await?;
                node.start_daemon().await?;
                works(mesh, pod).await
            };
            let told = format!("seed {}: killed {after:?} after its start", moments.seed);
            round.await.context(told)?;
        }
        println!(
            "seed {}: {times} daemons killed within {start:?} of their start, {tried} connections tried, 0 bytes in clear",
            moments.seed
        );
        Ok(())
    });
}

/// What became of enrolments.
#[derive(Debug, Default)]
struct Enrolments {
    complete: usize,
    failed: usize,
    /// Of those that failed, how many the next daemon has completed all the same.
    completed_later: usize,
}

#[test]
fn an_enrolment_whose_daemon_is_killed_fails_or_is_complete() {
    let starting = PodSpec::new("shop/pod").enrolment(Enrolment::Claimed);
    scenario(two_nodes(starting), async |mesh| {
        let usual = enrolment(mesh).await?;
        let mut moments = Moments::new();
        let mut enrolments = Enrolments::default();
        let times = effort::times(MOMENTS);
        for _ in 0..times {
            // As long again, for those that are done before the daemon dies.
            let after = moments.before(2 * usual);
            let told = format!("seed {}: killed {after:?} after ADD", moments.seed);
            round(mesh, after, &mut enrolments).await.context(told)?;
        }
        println!(
            "seed {}: {times} enrolments cut off: {enrolments:?}",
            moments.seed
        );
        Ok(())
    });
}

/// How long one takes that nobody cuts off.
async fn enrolment(mesh: &Mesh) -> Result<Duration> {
    let pod = mesh.pod("shop/pod");
    let begun = Instant::now();
    mesh.cni(CniCommand::Add, pod).await?;
    let usual = begun.elapsed();
    mesh.cni(CniCommand::Del, pod).await?;
    Ok(usual)
}

async fn round(mesh: &Mesh, after: Duration, enrolments: &mut Enrolments) -> Result<()> {
    let (node, pod) = (mesh.node("a"), mesh.pod("shop/pod"));
    let kill = async {
        sleep(after).await;
        node.kill_daemon().await
    };
    let (added, killed) = tokio::join!(mesh.cni(CniCommand::Add, pod), kill);
    killed?;
    if added.is_ok() {
        enrolments.complete += 1;
        is_closed(mesh, pod).await.context("its ADD was answered")?;
        node.start_daemon().await?;
    } else {
        enrolments.failed += 1;
        node.start_daemon().await?;
        // What the dead daemon had begun is whole now, or nothing.
        if mesh.cni(CniCommand::Check, pod).await.is_ok() {
            enrolments.completed_later += 1;
        } else {
            let programs = pod.cgroup.programs()?;
            ensure!(
                programs.is_empty(),
                "not enrolled, but {programs:?} are there"
            );
        }
        // As runtimes do, with the same sandbox.
        mesh.cni(CniCommand::Add, pod).await.context("again")?;
    }
    works(mesh, pod).await?;
    mesh.cni(CniCommand::Del, pod).await?;
    let left = pod.cgroup.programs()?;
    ensure!(left.is_empty(), "after DEL there are {left:?}");
    Ok(())
}
