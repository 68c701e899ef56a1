//! `cargo xtask bench footprint`: what an idle daemon and an enrolment cost.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, task::spawn_blocking, time::sleep};
use ztun::{
    mesh::PodName,
    node::api::{EnrolRequest, EnrolWhen},
    redirect::PodSandbox,
};
use ztun_tests::{
    Mesh, MeshBuilder, Node, Pod, PodSpec, cni::CniCommand, daemon, manifest::Manifest, wait,
};

use crate::{
    process::Usage,
    report::{Report, mebibytes, milliseconds, verdict},
    trend::median,
};

const NODE: &str = "a";
/// Pods of the idle daemon, and its limit in KiB.
const PODS: usize = 10;
const IDLE_LIMIT: u64 = 20 << 10;
const ENROLMENT_LIMIT: Duration = Duration::from_millis(20);
/// After its last change a daemon is left alone for this long before its memory is read.
const IDLE: Duration = Duration::from_secs(5);

/// Memory of an idle daemon, and the time that an enrolment takes
#[derive(clap::Args)]
pub struct Args {
    /// Pods for each row of the enrolment times
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    pods: u8,
}

pub async fn run(args: &Args) -> Result<Report> {
    let mut report = Report::begin("Footprint: an idle daemon, and enrolment");
    let mut mesh = (0..PODS)
        .map(|number| spec(&format!("idle-{number}")))
        .fold(Mesh::builder().nodes([NODE]), MeshBuilder::pod)
        .start()
        .await?;
    Report::progress(format_args!(
        "{PODS} pods enrolled; letting the daemon settle"
    ));
    let idle = settled(&mesh, PODS).await?;

    Report::progress(format_args!("adding 2 × {} pods", args.pods));
    let plugin = add_pods(&mut mesh, "plugin", args.pods).await?;
    let socket = add_pods(&mut mesh, "socket", args.pods).await?;
    let known = PODS + plugin.len() + socket.len();
    wait::until("the daemon knows the new pods", async || {
        let status = mesh.node(NODE).status().await;
        status.is_ok_and(|status| status["mesh"]["workloads"] == known)
    })
    .await?;
    Report::progress("enrolling them");
    let bare = times(&plugin, async |_| plugin_alone().await).await?;
    let whole = times(&plugin, async |path| {
        let result = mesh.cni(CniCommand::Add, mesh.pod(path)).await?;
        result.context("the plugin has printed no result").map(drop)
    })
    .await?;
    let daemon = times(&socket, async |path| {
        enrol_over_socket(mesh.node(NODE), mesh.pod(path)).await
    })
    .await?;
    let many = settled(&mesh, known).await?;

    judge_memory(idle, many, known, &mut report);
    judge_enrolment(&bare, &whole, &daemon, &mut report);
    Ok(report)
}

fn spec(name: &str) -> PodSpec {
    PodSpec::new(&format!("shop/{name}")).on(NODE)
}

/// What the daemon uses once all `pods` are captured, have their certificates, and nothing happens.
async fn settled(mesh: &Mesh, pods: usize) -> Result<Usage> {
    let node = mesh.node(NODE);
    let count = |status: &serde_json::Value, key: &str| status[key].as_array().map(Vec::len);
    wait::until("every pod has its certificate", async || {
        let status = node.status().await;
        status.is_ok_and(|status| {
            count(&status, "pods") == Some(pods)
                && count(&status, "certificates") == Some(pods)
                && count(&status, "notReady") == Some(0)
        })
    })
    .await?;
    sleep(IDLE).await;
    Usage::of(node.daemon_pid().await?)
}

/// Adds `count` pods to the network and to the mesh directory, but does not enrol them.
async fn add_pods(mesh: &mut Mesh, prefix: &str, count: u8) -> Result<Vec<String>> {
    let mut added = Vec::new();
    for number in 0..count {
        let spec = spec(&format!("{prefix}-{number}"));
        let account = Manifest::service_account(&spec.namespace, &spec.service_account);
        let path = mesh.add_pod(spec).await?.path();
        mesh.apply(&account)?;
        mesh.apply(&mesh.manifest_of(&path))?;
        added.push(path);
    }
    Ok(added)
}

/// How long `action` takes for each pod, one after the other, as a container runtime starts them.
async fn times(pods: &[String], action: impl AsyncFn(&str) -> Result<()>) -> Result<Times> {
    let mut times = Vec::new();
    for path in pods {
        let began = Instant::now();
        action(path).await?;
        times.push(began.elapsed());
    }
    let median = median(&times).context("no pods")?;
    let most = times.into_iter().max().unwrap_or_default();
    Ok(Times { median, most })
}

#[derive(Clone, Copy)]
struct Times {
    median: Duration,
    most: Duration,
}

/// Starts the plugin for the command that asks the daemon nothing.
async fn plugin_alone() -> Result<()> {
    let status = Command::new(daemon::binary()?)
        .arg("cni")
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .await
        .context("start the plugin")?;
    ensure!(status.success(), "CNI VERSION: {status}");
    Ok(())
}

/// Asks the daemon as the plugin does.
async fn enrol_over_socket(node: &Node, pod: &Pod) -> Result<()> {
    let request = EnrolRequest {
        sandbox: PodSandbox {
            pod: PodName::new(&pod.spec.namespace, &pod.spec.name),
            uid: pod.uid.clone(),
            sandbox_id: String::new(),
            netns: pod.netns.path().to_owned(),
            cgroup: pod.cgroup.path().to_owned(),
        },
        when: EnrolWhen::InMesh,
    };
    let body = serde_json::to_string(&request)?;
    let socket = node.socket();
    let answer = spawn_blocking(move || -> Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        write!(
            stream,
            "POST /v1/pods HTTP/1.1\r\nhost: ztun\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .await??;
    ensure!(
        answer.contains(r#""result":"enrolled""#),
        "enrol {}: {answer}",
        pod.path()
    );
    Ok(())
}

fn judge_memory(idle: Usage, many: Usage, pods: usize, report: &mut Report) {
    let row = |pods: usize, usage: Usage, target: String, met: String| {
        let memory = [usage.resident, usage.anonymous].map(mebibytes);
        let [resident, anonymous] = memory;
        let descriptors = usage.descriptors.to_string();
        let threads = usage.threads.to_string();
        let name = format!("idle, {pods} pods");
        [name, resident, anonymous, descriptors, threads, target, met]
    };
    let met = idle.resident < IDLE_LIMIT;
    let target = format!("< {}", mebibytes(IDLE_LIMIT));
    Report::table(
        [
            "daemon",
            "RSS",
            "of it heap",
            "fds",
            "threads",
            "target",
            "met",
        ],
        &[
            row(PODS, idle, target.clone(), verdict(met)),
            row(pods, many, String::new(), String::new()),
        ],
    );
    let more = (pods - PODS) as u64;
    Report::text(format_args!(
        "a further pod: {} KiB, {} fds",
        many.resident.saturating_sub(idle.resident) / more,
        many.descriptors.saturating_sub(idle.descriptors) / more,
    ));
    if !met {
        let resident = mebibytes(idle.resident);
        report.missed(format!("idle with {PODS} pods: {resident}, not {target}"));
    }
}

fn judge_enrolment(bare: &Times, whole: &Times, daemon: &Times, report: &mut Report) {
    let row = |name: &str, times: &Times, target: String, met: String| {
        let [median, most] = [times.median, times.most].map(milliseconds);
        [name.to_owned(), median, most, target, met]
    };
    let met = whole.median < ENROLMENT_LIMIT;
    let target = format!("< {}", milliseconds(ENROLMENT_LIMIT));
    let none = String::new;
    Report::table(
        ["enrolment of a pod", "median", "max", "target", "met"],
        &[
            row("CNI ADD, as a whole", whole, target.clone(), verdict(met)),
            row("  of it the daemon's part", daemon, none(), none()),
            row("  of it the plugin's start", bare, none(), none()),
        ],
    );
    if !met {
        report.missed(format_args!("CNI ADD: {whole}, not {target}"));
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&milliseconds(self.median))
    }
}
