//! What an init makes of a bare kernel: file systems, modules, a loopback interface.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    unistd::sethostname,
};
use rtnetlink::LinkUnspec;

use crate::plan::{CgroupLayout, Plan};

/// Files of modules, each after those that it depends on, one a line.
const MODULES: &str = "/modules";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Controllers that every supported kernel still has in version 1. `net_cls` once shared a field of
/// the socket with version 2.
const V1_CONTROLLERS: [&str; 3] = ["cpu", "pids", "net_cls"];
/// The loopback interface's index in every network namespace.
const LO: u32 = 1;

/// What is needed to say anything.
pub fn mount_basics() -> Result<()> {
    mount_at("proc", "/proc", None)?;
    mount_at("sysfs", "/sys", None)?;
    mount_at("devtmpfs", "/dev", None)
}

pub fn prepare(plan: &Plan) -> Result<()> {
    for path in ["/tmp", "/run"] {
        mount_at("tmpfs", path, None)?;
    }
    mount_at("bpf", "/sys/fs/bpf", None)?;
    sethostname("guest").context("name the machine")?;
    mount_cgroups(plan.cgroups)?;
    load_modules()?;
    filter_reverse_paths(plan.reverse_path_filter)?;
    bring_up_loopback()
}

fn mount_cgroups(layout: CgroupLayout) -> Result<()> {
    match layout {
        CgroupLayout::Unified => mount_at("cgroup2", CGROUPS, None),
        CgroupLayout::Hybrid => {
            mount_at("tmpfs", CGROUPS, None)?;
            for controller in V1_CONTROLLERS {
                mount_at(
                    "cgroup",
                    &format!("{CGROUPS}/{controller}"),
                    Some(controller),
                )?;
            }
            mount_at("cgroup2", &format!("{CGROUPS}/unified"), None)
        }
    }
}

fn mount_at(filesystem: &str, path: &str, options: Option<&str>) -> Result<()> {
    // Those inside sysfs exist already.
    if !Path::new(path).exists() {
        fs::create_dir_all(path).with_context(|| format!("create {path}"))?;
    }
    mount(
        Some(filesystem),
        path,
        Some(filesystem),
        MsFlags::empty(),
        options,
    )
    .with_context(|| format!("mount {filesystem} at {path}"))
}

fn load_modules() -> Result<()> {
    let list = fs::read_to_string(MODULES).with_context(|| format!("read {MODULES}"))?;
    for path in list.lines() {
        let file = File::open(path).with_context(|| format!("open {path}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("load {path}")),
        }
    }
    Ok(())
}

/// New network namespaces inherit these settings from the first.
fn filter_reverse_paths(mode: u8) -> Result<()> {
    for interfaces in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv4/conf/{interfaces}/rp_filter");
        fs::write(&path, mode.to_string()).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn bring_up_loopback() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("open netlink")?;
        tokio::spawn(connection);
        let up = LinkUnspec::new_with_index(LO).up().build();
        let change = handle.link().change(up).execute().await;
        change.context("bring up the loopback interface")
    })
}
