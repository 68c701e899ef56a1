//! QEMU: found, or fetched into the cache, and its command line.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::archive::{self, Archive};
use crate::{
    process::{self, say},
    setup::{self, apt, cache::Cache},
};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// 7.2 crashed every second boot of Linux 6.12 without hardware's help.
const OLDEST: (u32, u32) = (8, 1);
const RECIPE: &str = "layout 1";
/// Overrides what is told of the processor: `kvm` or `tcg`.
const ACCELERATOR: &str = "ZTUN_VM_ACCEL";
const MEMORY_MB: u32 = 1024;
const PROCESSORS: u32 = 2;

/// A QEMU that works here.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it isn't installed.
    root: Option<PathBuf>,
}

/// What a guest is started with.
pub struct Boot<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// Gets what the kernel says.
    pub console: &'a Path,
    /// Added to the kernel's command line.
    pub parameters: &'a str,
    /// Leads to another guest.
    pub cable: Option<Cable<'a>>,
}

/// One end of a cable between two guests: a network card, and the socket by which QEMU reaches the other's.
pub struct Cable<'a> {
    pub socket: &'a Path,
    pub end: End,
}

/// Which QEMU makes the socket.
#[derive(Clone, Copy)]
pub enum End {
    Listening,
    Connecting,
}

impl Qemu {
    /// The installed one if it is new enough, else Debian's, unpacked into the cache.
    pub fn provide(cache: &Cache, mirror: impl FnOnce() -> Result<String>) -> Result<Self> {
        if let Some(qemu) = Self::installed() {
            return Ok(qemu);
        }
        let entry = cache.entry("qemu");
        let unpacked = Self::unpacked(entry.dir());
        if entry.is_complete(RECIPE) && unpacked.is_new_enough() {
            return Ok(unpacked);
        }
        let Some(codename) = debian_codename() else {
            return Self::install();
        };
        say(format_args!(
            "QEMU {}.{} or newer is not installed: unpacking Debian's into the cache",
            OLDEST.0, OLDEST.1
        ));
        let mirror = mirror()?;
        let lists = cache.entry("lists");
        entry.make(RECIPE, |into| {
            let backports = format!("{codename}-backports");
            let archive = Archive::open(lists.dir(), &mirror, &[&codename, &backports])?;
            let packages = archive.missing_with_dependencies(PACKAGE)?;
            archive.unpack(&packages, into)
        })?;
        if !unpacked.is_new_enough() {
            bail!("QEMU was unpacked, but does not run or is older than wanted");
        }
        Ok(unpacked)
    }

    /// The command that boots a guest. Its first serial port is the kernel's console, its second is
    /// the command's standard output.
    pub fn command(&self, boot: &Boot) -> Command {
        let mut command = self.bare();
        if let Some(root) = &self.root {
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        let accelerator = accelerator();
        let processor = if accelerator == "kvm" { "host" } else { "max" };
        command
            .args(["-machine", "q35", "-accel", accelerator, "-cpu", processor])
            .args(["-smp", &PROCESSORS.to_string()])
            .args(["-m", &MEMORY_MB.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", boot.console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(boot.kernel)
            .arg("-initrd")
            .arg(boot.initramfs)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 oops=panic quiet {}",
                boot.parameters
            ));
        if let Some(cable) = &boot.cable {
            command.args(cable.arguments());
        }
        command
    }

    fn installed() -> Option<Self> {
        let program = process::find(PROGRAM)?;
        let qemu = Self {
            program,
            root: None,
        };
        qemu.is_new_enough().then_some(qemu)
    }

    /// Where the distribution is not Debian, and its packages can't be guessed to run from a folder.
    fn install() -> Result<Self> {
        let (major, minor) = OLDEST;
        if apt::is_there() && process::is_root() {
            say(format_args!("installing {PACKAGE}, which runs the guests"));
            setup::install_packages(&[PACKAGE])?;
        }
        Self::installed().with_context(|| {
            format!("there is no QEMU {major}.{minor} or newer: install {PROGRAM}")
        })
    }

    fn unpacked(root: &Path) -> Self {
        Self {
            program: root.join("usr/bin").join(PROGRAM),
            root: Some(root.to_owned()),
        }
    }

    fn is_new_enough(&self) -> bool {
        let output = process::output(self.bare().arg("--version"));
        output
            .ok()
            .and_then(|output| parse_version(&output))
            .is_some_and(|version| version >= OLDEST)
    }

    fn bare(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let libraries = libraries.map(|place| root.join(place).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            // Where its own modules are, which it has no option for.
            command.env(
                "QEMU_MODULE_DIR",
                root.join("usr/lib/x86_64-linux-gnu/qemu"),
            );
        }
        command
    }
}

impl Cable<'_> {
    fn arguments(&self) -> [String; 4] {
        let (server, address) = match self.end {
            End::Listening => ("on", "52:54:00:00:00:01"),
            End::Connecting => ("off", "52:54:00:00:00:02"),
        };
        // QEMU reads two commas as one.
        let socket = self.socket.display().to_string().replace(',', ",,");
        [
            "-netdev".into(),
            format!("stream,id=cable,server={server},addr.type=unix,addr.path={socket}"),
            "-device".into(),
            // The card's firmware could boot from the network.
            format!("virtio-net-pci,netdev=cable,mac={address},romfile="),
        ]
    }
}

/// KVM only where the processor has it: a `/dev/kvm` that emulates is slower than QEMU's own.
fn accelerator() -> &'static str {
    match env::var(ACCELERATOR).as_deref() {
        Ok("kvm") => return "kvm",
        Ok("tcg") => return TCG,
        _ => {}
    }
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if Path::new("/dev/kvm").exists() && has_virtualisation(&processors) {
        "kvm"
    } else {
        TCG
    }
}

const TCG: &str = "tcg,thread=multi";

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| matches!(flag, "vmx" | "svm"))
}

/// `QEMU emulator version 10.0.2 (…)`
fn parse_version(output: &str) -> Option<(u32, u32)> {
    let (_, rest) = output.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn debian_codename() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    parse_codename(&release).filter(|_| archive::mirror().is_ok())
}

fn parse_codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        let mut lines = os_release.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    (field("ID")? == "debian").then(|| field("VERSION_CODENAME").map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_version(debian), Some((10, 0)));
        assert!(parse_version("QEMU emulator version 7.2.17") < Some(OLDEST));
        assert!(parse_version("QEMU emulator version 8.1") >= Some(OLDEST));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn only_a_processor_that_virtualises_uses_kvm() {
        assert!(has_virtualisation(
            "processor : 0\nflags\t\t: fpu vmx sse\n"
        ));
        assert!(!has_virtualisation("flags : fpu sse\nbugs : vmxish svm\n"));
    }

    #[test]
    fn a_cable_has_two_ends_that_differ() {
        let arguments = |end| {
            let socket = Path::new("/tmp/a,b.socket");
            Cable { socket, end }.arguments().join(" ")
        };
        let (one, other) = (arguments(End::Listening), arguments(End::Connecting));
        assert!(one.contains("server=on") && other.contains("server=off"));
        assert!(one.contains("addr.path=/tmp/a,,b.socket "), "{one}");
        let address = |end: &str| end.split("mac=").last().map(str::to_owned);
        assert_ne!(address(&one), address(&other));
    }

    #[test]
    fn backports_are_debian_s_only() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(parse_codename(debian).as_deref(), Some("bookworm"));
        assert_eq!(parse_codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
    }
}
