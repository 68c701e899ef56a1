//! The first process of a guest of `cargo xtask vm`: prepares the machine, runs the test binaries that
//! the plan names, and tells the host of it over the second serial port.

mod machine;
mod plan;
mod report;

use std::{fs, process::Command, process::Stdio, thread};

use anyhow::{Context, Result};
use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use self::{
    plan::{Plan, Run},
    report::Report,
};

fn main() {
    if let Err(error) = machine::mount_basics() {
        eprintln!("ztun-init: {error:#}");
        return;
    }
    match Report::open() {
        Ok(report) => {
            if let Err(error) = serve(&report) {
                report.failed(&error);
            }
            report.flush();
        }
        Err(error) => eprintln!("ztun-init: {error:#}"),
    }
    // The host started QEMU such that it ends here.
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("ztun-init: reboot: {error}");
}

fn serve(report: &Report) -> Result<()> {
    let plan = Plan::read()?;
    machine::prepare(&plan)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    report.ready(release.trim());
    for run in &plan.runs {
        execute(run, &plan, report).with_context(|| format!("run {}", run.name))?;
    }
    report.done();
    Ok(())
}

fn execute(run: &Run, plan: &Plan, report: &Report) -> Result<()> {
    report.start(&run.name);
    let mut child = Command::new(&run.program)
        .args(&run.arguments)
        .envs(&plan.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", run.program.display()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = thread::scope(|scope| {
        scope.spawn(|| stdout.map(|stdout| report.output("out", stdout)));
        scope.spawn(|| stderr.map(|stderr| report.output("err", stderr)));
        let status = child.wait();
        // What outlives the tests would hold their output open: to the first process -1 is all others.
        let ended = kill(Pid::from_raw(-1), Signal::SIGKILL);
        debug_assert!(matches!(ended, Ok(()) | Err(nix::Error::ESRCH)));
        status
    })?;
    report.end(&run.name, status);
    Ok(())
}
