//! `cargo xtask demo`: two nodes, real pods, mutual TLS between them, and a check for each claim.

mod acts;
mod curl;
mod keep;
mod report;
mod stage;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use ztun_tests::{mesh::ensure_nothing_left, scenario::can_run_daemons};

use self::report::Report;

fn main() -> ExitCode {
    let keep = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--keep") => true,
        Some(other) => {
            eprintln!("ztun-demo: unknown argument `{other}`; there is only --keep");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    let result = tokio::runtime::Runtime::new()
        .context("start a runtime")
        .and_then(|runtime| runtime.block_on(demo(keep, &mut report)));
    if let Err(error) = result {
        report.failed(format!("{error:#}"));
    }
    report.conclude()
}

async fn demo(keep: bool, report: &mut Report) -> Result<()> {
    if let Err(reason) = can_run_daemons() {
        bail!("the demo can't run here: it {reason}");
    }
    Report::title("ztun: two nodes, real pods, mutual TLS between them");
    Report::progress("starting two nodes, five pods with nginx, and a daemon on each node");
    let mesh = stage::build().start().await?;
    let name = mesh.name().to_owned();
    let servers = stage::start_servers(&mesh).await?;
    Report::text(stage::PICTURE);

    acts::before_enrolment(&mesh, report).await?;
    acts::enrolment(&mesh, report).await?;
    acts::traffic(&mesh, report).await?;
    acts::strict(&mesh, report).await?;
    if keep {
        keep::until_interrupted(&mesh).await?;
    }

    Report::title("Cleaning up");
    drop(servers);
    for node in mesh.nodes() {
        node.terminate_daemon().await?;
        node.daemon_ends().await?;
    }
    drop(mesh);
    ensure_nothing_left(&name)?;
    report.passed("the daemons drained and ended; no namespace, cgroup or pin is left");
    Ok(())
}
