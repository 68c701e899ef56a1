//! `cargo xtask bench start`: how long a node's pods are closed when its daemon is started again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;
use ztun_tests::{Enrolment, Family, Mesh, MeshBuilder, Pod, PodSpec, wait};

use crate::{
    report::{Report, milliseconds, verdict},
    trend::median,
};

const NODE: &str = "a";
const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_millis(100);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(1);

/// The time from the daemon's start until it serves the pods of an earlier one
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=200))]
    pods: u8,
    /// How often the daemon is ended and started, for each way to end it
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
}

/// How the daemon before it ended.
#[derive(Clone, Copy)]
enum End {
    Terminated,
    Killed,
}

/// From the start of the process.
#[derive(Clone, Copy)]
struct Start {
    /// Until a connection out of the last pod is carried.
    serving: Duration,
    ready: Duration,
}

pub async fn run(args: &Args) -> Result<Report> {
    let mut report = Report::begin("Start: a daemon takes over the pods of the one before it");
    let outside = PodSpec::new("outside/server")
        .on(NODE)
        .enrolment(Enrolment::Outside);
    let mesh = (0..args.pods)
        .map(|number| PodSpec::new(&name(number)).on(NODE))
        .fold(Mesh::builder().nodes([NODE]).pod(outside), MeshBuilder::pod)
        .start()
        .await?;
    let _echo = mesh.pod("outside/server").echo(PORT)?;
    // Pods are taken over in the order of their names.
    let last = mesh.pod(&name(args.pods - 1));
    settled(&mesh).await?;

    let mut rows = Vec::new();
    for (end, text) in [(End::Terminated, "SIGTERM"), (End::Killed, "SIGKILL")] {
        Report::progress(format_args!("{} starts after {text}", args.runs));
        let mut starts = Vec::new();
        for _ in 0..args.runs {
            starts.push(start(&mesh, end, last).await?);
            settled(&mesh).await?;
        }
        let of = |part: fn(&Start) -> Duration| {
            let mut times: Vec<_> = starts.iter().map(part).collect();
            times.sort_unstable();
            Ok::<_, anyhow::Error>((median(&times).context("no runs")?, times[times.len() - 1]))
        };
        let (serving, ready) = (of(|start| start.serving)?, of(|start| start.ready)?);
        let met = serving.0 < LIMIT;
        let cells = [serving.0, serving.1, ready.0, ready.1].map(milliseconds);
        let [a, b, c, d] = cells;
        let target = format!("< {}", milliseconds(LIMIT));
        rows.push([text.to_owned(), a, b, c, d, target.clone(), verdict(met)]);
        if !met {
            let median = milliseconds(serving.0);
            report.missed(format!("after {text}: serving in {median}, not {target}"));
        }
    }
    Report::table(
        ["after", "serving", "max", "ready", "max", "target", "met"],
        &rows,
    );
    Report::text(format_args!(
        "{} pods; the medians of {} starts",
        args.pods, args.runs
    ));
    Ok(report)
}

fn name(number: u8) -> String {
    format!("shop/pod-{number:03}")
}

async fn start(mesh: &Mesh, end: End, last: &Pod) -> Result<Start> {
    let node = mesh.node(NODE);
    match end {
        End::Killed => node.kill_daemon().await?,
        End::Terminated => {
            node.terminate_daemon().await?;
            node.daemon_ends().await?;
        }
    }
    let server = mesh.pod("outside/server").at(Family::V4, PORT);
    let began = Instant::now();
    node.launch_daemon().await?;
    // It is refused at once while nobody serves the pod.
    while last.connect(server).await.is_err() {
        sleep(INTERVAL).await;
    }
    let serving = began.elapsed();
    while !node.readiness().is_ok_and(|(code, _)| code == 200) {
        sleep(INTERVAL).await;
    }
    let ready = began.elapsed();
    Ok(Start { serving, ready })
}

/// Waits until the daemon has nothing to do: what a start leaves for later is not the next one's.
async fn settled(mesh: &Mesh) -> Result<()> {
    mesh.node(NODE).daemon_is_ready().await?;
    wait::until("every pod is captured", async || {
        let status = mesh.node(NODE).status().await;
        status.is_ok_and(|status| {
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            pods.iter().all(|pod| pod["capture"]["state"] == "captured")
        })
    })
    .await?;
    sleep(Duration::from_secs(1)).await;
    Ok(())
}
