//! `cargo xtask bench soak`: nothing may grow with the number of connections or with time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use ztun_tests::{Mesh, wait};

use crate::{
    process::Usage,
    report::{Report, mebibytes, verdict},
    sockets::Sockets,
    traffic::{self, Tally},
    trend::{Tolerance, Trend},
};

const INTERVAL: Duration = Duration::from_secs(2);
/// Samples of the beginning don't count: caches, pools and the allocator fill up.
const WARM_UP: Duration = Duration::from_mins(1);
const SHORTEST: Duration = Duration::from_secs(30);
const PROGRESS: Duration = Duration::from_secs(30);
/// Connections have this long to be gone from `ztun status` after the load.
const REST: Duration = Duration::from_secs(30);
/// Failures of more kinds than this are only counted.
const FAILURES_SHOWN: usize = 10;

/// In KiB. A leak of a few bytes a connection exceeds it in ten minutes.
const MEMORY: Tolerance = Tolerance {
    absolute: 1024,
    percent: 5,
};
/// Connections come and go: a sample catches some of them half open.
const DESCRIPTORS: Tolerance = Tolerance {
    absolute: 16,
    percent: 10,
};
/// Threads for blocking work end when they are idle for a while.
const THREADS: Tolerance = Tolerance {
    absolute: 2,
    percent: 0,
};
const SOCKETS: Tolerance = DESCRIPTORS;

/// Short connections of every kind for a long time, while memory, descriptors, threads and sockets are watched
#[derive(clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 10, conflicts_with = "seconds")]
    minutes: u64,
    /// How long, for a quick look: a slow leak takes the full time to show
    #[arg(long)]
    seconds: Option<u64>,
    /// Connections that each of the three clients has open at once
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

impl Args {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(self.minutes * 60))
    }
}

/// Everything that is watched, at one time.
struct Sample {
    connections: u64,
    /// Of each node's daemon.
    daemons: Vec<Usage>,
    sockets: Sockets,
}

pub async fn run(args: &Args) -> Result<Report> {
    let duration = args.duration();
    ensure!(
        duration >= SHORTEST,
        "a soak of less than {SHORTEST:?} can't show a trend"
    );
    let mut report = Report::begin("Soak: short connections of every kind");
    let mesh = traffic::stage()
        // A line a connection would fill the disk; failures are counted at the clients.
        .setting("logFilter", json!("info,access=off"))
        .start()
        .await?;
    let servers = traffic::serve(&mesh)?;
    let tally = Tally::default();
    let before = Sample::take(&mesh, &tally).await?;
    let began = Instant::now();
    let end = began + duration;
    let (samples, ()) = tokio::join!(
        watch(&mesh, began, end, &tally),
        traffic::drive(&mesh, args.workers, end, &tally),
    );
    let took = began.elapsed();
    let samples = samples?;
    let at_rest = comes_to_rest(&mesh).await;
    let after = Sample::take(&mesh, &tally).await?;
    drop(servers);

    judge_trends(&mesh, &samples, &mut report)?;
    print_rest(&mesh, &before, &after);
    if let Err(error) = at_rest {
        report.missed(format!("connections stay open after the load: {error:#}"));
    }
    judge_failures(&tally, took, &mut report);
    print_log(&mesh);
    Ok(report)
}

impl Sample {
    async fn take(mesh: &Mesh, tally: &Tally) -> Result<Self> {
        let mut daemons = Vec::new();
        for node in mesh.nodes() {
            daemons.push(Usage::of(node.daemon_pid().await?)?);
        }
        Ok(Self {
            connections: tally.connections(),
            daemons,
            sockets: Sockets::of_pods(mesh)?,
        })
    }
}

/// Samples from the end of the warm-up on.
async fn watch(mesh: &Mesh, began: Instant, end: Instant, tally: &Tally) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let steady = began + WARM_UP.min((end - began) / 4);
    let mut next = began;
    let mut next_progress = began + PROGRESS;
    loop {
        next += INTERVAL;
        if next >= end {
            return Ok(samples);
        }
        sleep_until(next).await;
        let sample = Sample::take(mesh, tally).await?;
        if next >= next_progress {
            next_progress += PROGRESS;
            Report::progress(progress(mesh, &sample, began.elapsed()));
        }
        if next >= steady {
            samples.push(sample);
        }
    }
}

fn progress(mesh: &Mesh, sample: &Sample, passed: Duration) -> String {
    let nodes = mesh.nodes().iter().zip(&sample.daemons);
    let nodes: Vec<_> = nodes
        .map(|(node, usage)| {
            let resident = mebibytes(usage.resident);
            format!("node {} {resident} {} fds", node.name, usage.descriptors)
        })
        .collect();
    let (passed, connections) = (passed.as_secs(), sample.connections);
    format!(
        "{passed} s: {connections} connections, {}",
        nodes.join(", ")
    )
}

/// Waits until no daemon has a connection any more.
async fn comes_to_rest(mesh: &Mesh) -> Result<()> {
    for node in mesh.nodes() {
        let mut open = None;
        let none_left = wait::until_within(REST, "some are left", async || {
            let status = node.status().await.ok();
            open = status.and_then(|status| Some(status["connections"].as_array()?.len()));
            open == Some(0)
        });
        none_left.await.with_context(|| {
            let open = open.map_or("unknown".into(), |open| open.to_string());
            format!("`ztun status` of node {} shows: {open}", node.name)
        })?;
    }
    // Closed sockets are reaped a moment later.
    sleep(INTERVAL).await;
    Ok(())
}

/// A figure of a sample, how it is printed, and what of its growth is noise.
struct Figure<'a> {
    name: String,
    of: Box<dyn Fn(&Sample) -> u64 + 'a>,
    print: fn(u64) -> String,
    tolerance: Tolerance,
}

fn figures(mesh: &Mesh) -> Vec<Figure<'_>> {
    let count = |number: u64| number.to_string();
    let mut figures = Vec::new();
    for (number, node) in mesh.nodes().iter().enumerate() {
        let mut add = |name, of: fn(&Usage) -> u64, print, tolerance| {
            figures.push(Figure {
                name: format!("node {}: {name}", node.name),
                of: Box::new(move |sample| of(&sample.daemons[number])),
                print,
                tolerance,
            });
        };
        add("resident memory", |usage| usage.resident, mebibytes, MEMORY);
        add(
            "file descriptors",
            |usage| usage.descriptors,
            count,
            DESCRIPTORS,
        );
        add("threads", |usage| usage.threads, count, THREADS);
    }
    figures.push(Figure {
        name: "pods: TCP sockets".into(),
        of: Box::new(|sample| sample.sockets.in_use),
        print: count,
        tolerance: SOCKETS,
    });
    figures
}

fn judge_trends(mesh: &Mesh, samples: &[Sample], report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for figure in figures(mesh) {
        let values: Vec<_> = samples.iter().map(&figure.of).collect();
        let trend = Trend::of(&values, figure.tolerance).context("too few samples")?;
        let most = values.iter().copied().max().unwrap_or_default();
        if trend.grows() {
            let growth = (figure.print)(trend.growth());
            let connections = connections_between_thirds(samples);
            report.missed(format!(
                "{} grew by {growth} over {connections} connections",
                figure.name
            ));
        }
        let print = figure.print;
        let flat = verdict(!trend.grows());
        let [first, last, most, growth, allowed] =
            [trend.first, trend.last, most, trend.growth(), trend.allowed].map(print);
        rows.push([figure.name, first, last, most, growth, allowed, flat]);
    }
    Report::table(
        [
            "under load (medians)",
            "first third",
            "last third",
            "peak",
            "growth",
            "allowed",
            "flat",
        ],
        &rows,
    );
    Ok(())
}

/// From the middle of the first third to the middle of the last.
fn connections_between_thirds(samples: &[Sample]) -> u64 {
    let sixth = samples.len() / 6;
    let at = |index: usize| samples.get(index).map_or(0, |sample| sample.connections);
    at(samples.len() - 1 - sixth) - at(sixth)
}

fn print_rest(mesh: &Mesh, before: &Sample, after: &Sample) {
    let rows: Vec<_> = figures(mesh)
        .into_iter()
        .map(
            |Figure {
                 name, of, print, ..
             }| [name, print(of(before)), print(of(after))],
        )
        .collect();
    Report::table(["at rest", "before the load", "after it"], &rows);
    let time_wait = after.sockets.time_wait;
    Report::text(format_args!(
        "(after it: pooled tunnels stay open for a while; {time_wait} sockets in TIME-WAIT)"
    ));
}

fn judge_failures(tally: &Tally, took: Duration, report: &mut Report) {
    let failures = tally.failures();
    let failed: u64 = failures.values().sum();
    let (made, seconds) = (tally.connections(), took.as_secs().max(1));
    println!();
    Report::text(format_args!(
        "{made} connections in {seconds} s ({} a second), {failed} failed",
        made / seconds
    ));
    for (what, times) in failures.iter().take(FAILURES_SHOWN) {
        Report::text(format_args!("  {times} × {what}"));
    }
    if failed > 0 {
        report.missed(format!("{failed} of {made} connections failed"));
    }
    if made == 0 {
        report.missed("no connection was made");
    }
}

/// What the daemons complained about, if they did.
fn print_log(mesh: &Mesh) {
    const LINES: usize = 5;
    for node in mesh.nodes() {
        let log = node.log();
        let complaints = || {
            let lines = log.lines();
            lines.filter(|line| line.contains("ERROR") || line.contains("WARN"))
        };
        let count = complaints().count();
        if count > 0 {
            Report::text(format_args!(
                "node {} logged {count} warnings and errors; the first ones:",
                node.name
            ));
        }
        for line in complaints().take(LINES) {
            Report::text(format_args!("  {line}"));
        }
    }
}
