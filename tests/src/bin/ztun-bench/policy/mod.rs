//! `cargo xtask bench policy`: what decisions and changes cost as the mesh grows, and what policies hold.

mod changes;
mod choice;
mod large_mesh;

use std::{
    hint::black_box,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ztun::mesh::{Connection, Snapshot, policy::Policy};

use self::{
    changes::{Cluster, Size},
    large_mesh::{LargeMesh, Naming, Shape},
};
use crate::{
    process::Usage,
    report::{Report, verdict},
    trend::median,
};

/// Of the smallest mesh; the largest is a hundred times as large.
const POLICIES: usize = 100;
const WORKLOADS: usize = 1_000;
const GROWTH: [usize; 3] = [1, 10, 100];
/// Of a node: Kubernetes' limit.
const PODS: usize = 110;
/// Decisions that are timed together. The best round counts: what else the machine does slows
/// down the others, and a short one ends before anything else gets its turn.
const ROUND: u32 = 1_000;
/// Values of one field, endpoints of one service: of the smallest.
const VALUES: usize = 100;

const DECISION_LIMIT: Duration = Duration::from_micros(1);
const UPDATE_LIMIT: Duration = Duration::from_millis(1);
const BYTES_LIMIT: u64 = 300;

/// Time of a decision and of an update, and memory, with up to 10,000 policies and 100,000 workloads
#[derive(clap::Args)]
pub struct Args {
    /// Decisions for each number
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    decisions: u32,
    /// Updates for each number
    #[arg(long, default_value_t = 201, value_parser = clap::value_parser!(u32).range(1..))]
    updates: u32,
}

struct Measured {
    /// To the pods of one node, which are all that a daemon judges.
    node: Duration,
    /// To another workload of the mesh each time.
    cold: Duration,
    audit: Duration,
    policy_update: Duration,
    workload_update: Duration,
}

pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::begin("Policy: decisions, updates and memory");
    // First: memory that was used and freed before would hide what policies take.
    hold(&mut report)?;
    grow(args, &mut report)?;
    long_fields(args, &mut report)?;
    endpoint_choice(args, &mut report)?;
    changes(args, &mut report)?;
    Ok(report)
}

fn hold(report: &mut Report) -> Result<()> {
    let [.., growth] = GROWTH;
    let (policies, workloads) = (POLICIES * growth, WORKLOADS * growth);
    Report::progress(format_args!("{policies} policies in memory"));
    let mesh = LargeMesh::new(Shape::ManyNamespaces, policies, workloads)?;
    let mut snapshot = mesh.snapshot_without_policies();
    let before = anonymous_bytes()?;
    insert_policies(&mesh, &mut snapshot);
    let held = anonymous_bytes()?.saturating_sub(before);
    let a_workload = held / u64::try_from(workloads)?;
    let a_policy = held / u64::try_from(policies)?;
    Report::text(format_args!(
        "{policies} policies for {workloads} workloads: {a_workload} bytes a workload, {a_policy} a policy"
    ));
    if a_workload >= BYTES_LIMIT {
        report.missed(format_args!("less than {BYTES_LIMIT} bytes a workload"));
    }
    Ok(())
}

fn insert_policies(mesh: &LargeMesh, snapshot: &mut Snapshot) {
    for (key, policy) in mesh.policies() {
        snapshot.insert_policy(key, Policy::Authorization(Arc::new(policy)));
    }
}

fn grow(args: &Args, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for (shape, name) in [
        (Shape::ManyNamespaces, "10 policies a namespace"),
        (Shape::OneNamespace, "all in one namespace"),
    ] {
        for growth in GROWTH {
            let (policies, workloads) = (POLICIES * growth, WORKLOADS * growth);
            Report::progress(format_args!("{policies} policies, {name}"));
            let measured = measure(shape, policies, workloads, args)?;
            judge(&measured, growth, report);
            rows.push([
                name.to_owned(),
                policies.to_string(),
                workloads.to_string(),
                nanoseconds(measured.node),
                nanoseconds(measured.cold),
                nanoseconds(measured.audit),
                microseconds(measured.policy_update),
                microseconds(measured.workload_update),
            ]);
        }
    }
    Report::table(
        [
            "mesh",
            "policies",
            "workloads",
            "decision",
            "cold",
            "audit",
            "policy update",
            "pod update",
        ],
        &rows,
    );
    Report::text(format_args!(
        "decision, audit: to {PODS} pods, as one node has; cold: to another workload of the mesh each time"
    ));
    Ok(())
}

fn measure(shape: Shape, policies: usize, workloads: usize, args: &Args) -> Result<Measured> {
    let mesh = LargeMesh::new(shape, policies, workloads)?;
    let mut snapshot = mesh.snapshot_without_policies();
    insert_policies(&mesh, &mut snapshot);
    let connections = mesh.connections();
    let node = &connections[..PODS];
    let decide = |connection: &Connection<'_>| drop(black_box(snapshot.authorize(connection)));
    let audit = |connection: &Connection<'_>| {
        black_box(snapshot.policies().audit(connection).count());
    };
    Ok(Measured {
        node: mean(node, args.decisions, decide),
        cold: mean(&connections, args.decisions, decide),
        audit: mean(node, args.decisions, audit),
        policy_update: update(&snapshot, args.updates, |snapshot, number| {
            let (key, policy) = mesh.changed_policy(number);
            snapshot.insert_policy(key, Policy::Authorization(Arc::new(policy)));
        }),
        workload_update: update(&snapshot, args.updates, |snapshot, number| {
            snapshot.insert_workload(mesh.changed_workload(number));
        }),
    })
}

fn judge(measured: &Measured, growth: usize, report: &mut Report) {
    let largest = GROWTH.last() == Some(&growth);
    if largest && measured.node >= DECISION_LIMIT {
        report.missed(format_args!("a decision within {DECISION_LIMIT:?}"));
    }
    if largest && measured.policy_update.max(measured.workload_update) >= UPDATE_LIMIT {
        report.missed(format_args!("an update within {UPDATE_LIMIT:?}"));
    }
}

/// One policy with a field of many values, each time another of which matches.
fn long_fields(args: &Args, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for (name, naming) in [
        ("namespaces", Naming::Namespaces),
        ("principals", Naming::Principals),
        ("ipBlocks", Naming::IpBlocks),
    ] {
        for growth in GROWTH {
            let values = VALUES * growth;
            let mesh = LargeMesh::new(Shape::Named(naming), 1, values)?;
            let mut snapshot = mesh.snapshot_without_policies();
            insert_policies(&mesh, &mut snapshot);
            let connections = mesh.connections();
            let time = mean(&connections, args.decisions, |connection| {
                drop(black_box(snapshot.authorize(connection)));
            });
            let met = time < DECISION_LIMIT;
            if !met {
                report.missed(format_args!("{values} {name} within {DECISION_LIMIT:?}"));
            }
            rows.push([
                name.to_owned(),
                values.to_string(),
                nanoseconds(time),
                verdict(met),
            ]);
        }
    }
    Report::table(["field", "values", "decision", "under 1 µs"], &rows);
    Ok(())
}

fn endpoint_choice(args: &Args, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for growth in GROWTH {
        let endpoints = VALUES * growth;
        let time = choice::cost(endpoints, args.decisions)?;
        let met = time < DECISION_LIMIT;
        if !met {
            report.missed(format_args!(
                "{endpoints} endpoints within {DECISION_LIMIT:?}"
            ));
        }
        rows.push([endpoints.to_string(), nanoseconds(time), verdict(met)]);
    }
    Report::table(["endpoints of a service", "choice", "under 1 µs"], &rows);
    Ok(())
}

fn changes(args: &Args, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for growth in GROWTH {
        let size = Size {
            pods: WORKLOADS * growth,
            policies: POLICIES * growth,
            large: VALUES * growth,
        };
        Report::progress(format_args!("changes among {} pods", size.pods));
        for cost in Cluster::new(size)?.measure(args.updates)? {
            let met = cost.followed < UPDATE_LIMIT;
            if !met && GROWTH.last() == Some(&growth) {
                report.missed(format_args!("{} within {UPDATE_LIMIT:?}", cost.change));
            }
            rows.push([
                cost.change.to_owned(),
                size.pods.to_string(),
                microseconds(cost.translated),
                microseconds(cost.followed),
                verdict(met),
            ]);
        }
    }
    Report::table(
        ["change", "pods", "translated", "followed", "under 1 ms"],
        &rows,
    );
    Report::text(format_args!(
        "translated: from the source's event to the snapshot and its problems; followed: published, and looked at by the node; \
         there is a service for ten pods; large: in a namespace with a tenth as many pods, all of them in each of its two services"
    ));
    Ok(())
}

fn mean(connections: &[Connection<'_>], count: u32, action: impl Fn(&Connection<'_>)) -> Duration {
    let mut connections = connections.iter().cycle();
    let rounds = (0..count.div_ceil(ROUND)).map(|_| {
        let start = Instant::now();
        for connection in connections.by_ref().take(ROUND as usize) {
            action(black_box(connection));
        }
        start.elapsed() / ROUND
    });
    rounds.min().unwrap_or_default()
}

/// Of a snapshot that others hold, as a source has it after it published one.
fn update(published: &Snapshot, count: u32, change: impl Fn(&mut Snapshot, usize)) -> Duration {
    let times: Vec<_> = (0..count as usize)
        .map(|number| {
            let start = Instant::now();
            let mut next = published.clone();
            change(&mut next, number);
            black_box(&next);
            start.elapsed()
        })
        .collect();
    median(&times).unwrap_or_default()
}

fn anonymous_bytes() -> Result<u64> {
    let pid = i32::try_from(process::id()).context("this process's id")?;
    Ok(Usage::of(pid)?.anonymous << 10)
}

fn nanoseconds(time: Duration) -> String {
    format!("{} ns", time.as_nanos())
}

fn microseconds(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}
