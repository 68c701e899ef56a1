//! `--keep`: leaves everything running, and says what to try.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result};
use ztun_tests::{Family, Mesh, daemon};

use super::{
    report::Report,
    stage::{CART, OUTSIDER, PORT, SERVICE_PORT, STOCK},
};

pub async fn until_interrupted(mesh: &Mesh) -> Result<()> {
    let directory = mesh.scratch("demo")?;
    let mut script = String::from(
        "#!/bin/sh\n# usage: pod NAMESPACE/NAME COMMAND…   runs a command as a process of that pod\nset -e\ncase $1 in\n",
    );
    for pod in mesh.pods() {
        writeln!(
            script,
            "{}) cgroup={} netns={} ;;",
            pod.path(),
            pod.cgroup.path().display(),
            pod.netns.path().display()
        )?;
    }
    script.push_str(
        "*) echo \"no pod $1\" >&2; exit 1 ;;\nesac\nshift\necho $$ > \"$cgroup/cgroup.procs\"\nexec nsenter --net=\"$netns\" \"$@\"\n",
    );
    let pod = directory.join("pod");
    fs::write(&pod, script).context("write the script that enters pods")?;
    fs::set_permissions(&pod, fs::Permissions::from_mode(0o755))?;

    let pod = pod.display();
    let server = mesh.pod(STOCK).at(Family::V4, PORT);
    let service = mesh.service(STOCK).at(Family::V4, SERVICE_PORT);
    let ztun = daemon::binary()?;
    let socket = mesh.node("b").socket();
    Report::title("It is all running; try this in another terminal");
    Report::text(format!(
        "  {pod} {CART} curl http://{server}/       across the nodes, encrypted
  {pod} {CART} curl http://{service}/            through the service
  {pod} {OUTSIDER} curl http://{server}/ from outside the mesh
  {} status --socket {}
  ls {}       the mesh: edit a file and see it take effect

Ctrl-C ends it and removes everything.",
        ztun.display(),
        socket.display(),
        mesh.directory.path().display(),
    ));
    tokio::signal::ctrl_c().await.context("wait for Ctrl-C")
}
