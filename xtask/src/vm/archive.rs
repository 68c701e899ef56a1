//! Packages of a Debian suite, whatever suites this machine itself uses: apt with lists of its own.
//! Nothing here installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    process::{self, say},
    setup::apt,
};

/// Names a mirror of Debian's archive where apt itself has none.
const MIRROR: &str = "ZTUN_DEBIAN_MIRROR";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites of Debian's archive.
pub struct Archive {
    directory: PathBuf,
    suite: String,
}

/// What apt knows of one version of a package.
#[derive(Debug, Default, PartialEq)]
pub struct Record {
    pub package: String,
    pub version: String,
    pub depends: String,
}

impl Archive {
    /// Fetches the lists of `suites`; apt prefers packages of the last.
    pub fn open(directory: &Path, mirror: &str, suites: &[&str]) -> Result<Self> {
        let suite = suites.last().context("no suite")?;
        let directory = directory.join(suite);
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let archive = Self {
            directory,
            suite: (*suite).to_owned(),
        };
        let sources = archive.directory.join("sources.list");
        fs::write(&sources, sources_list(mirror, suites))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        say(format_args!(
            "reading Debian's package lists of {} (kept in {})",
            suites.join(" and "),
            archive.directory.display()
        ));
        process::output(
            archive
                .apt("apt-get")
                .args(["update", "-q", "--error-on=any"]),
        )
        .with_context(|| format!("apt cannot read the lists of {} at {mirror}", archive.suite))?;
        Ok(archive)
    }

    /// Every version of a package.
    pub fn records(&self, package: &str) -> Result<Vec<Record>> {
        let records = process::output(self.apt("apt-cache").args(["show", package]))
            .with_context(|| format!("{} has no package {package}", self.suite))?;
        Ok(parse_records(&records))
    }

    /// The packages that installing this one would add to the system, itself among them.
    pub fn missing_with_dependencies(&self, package: &str) -> Result<Vec<String>> {
        let simulation = process::output(self.apt("apt-get").args([
            "install",
            "--simulate",
            "--no-install-recommends",
            package,
        ]))?;
        Ok(apt::parse_new_packages(&simulation))
    }

    /// Downloads packages and unpacks them into a folder.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        say(format_args!(
            "downloading {} of Debian's {}, and unpacking into {}",
            packages.join(", "),
            self.suite,
            into.display()
        ));
        let debs = into.join("debs");
        // What another suite's failed download left must not be unpacked.
        if debs.exists() {
            fs::remove_dir_all(&debs)
                .with_context(|| format!("cannot remove {}", debs.display()))?;
        }
        fs::create_dir_all(&debs).with_context(|| format!("cannot create {}", debs.display()))?;
        process::run(
            self.apt("apt-get")
                .current_dir(&debs)
                .args(["download", "-q"])
                .args(packages)
                .stdout(Stdio::null()),
        )?;
        for deb in fs::read_dir(&debs)? {
            let deb = deb?.path();
            process::run(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&deb)
                    .arg(into),
            )?;
        }
        fs::remove_dir_all(&debs).with_context(|| format!("cannot remove {}", debs.display()))
    }

    /// An apt command that reads and writes this archive's lists, and the machine's own nowhere.
    fn apt(&self, program: &str) -> Command {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let options = [
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("APT::Default-Release={}", self.suite),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::GzipIndexes=true".to_owned(),
            // A mirror may lag behind; what is fetched is signed in any case.
            "Acquire::Check-Valid-Until=false".to_owned(),
            // Apt's own user can't write to a cache in somebody's home.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8");
        for option in options {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Where Debian's archive is: what apt on this machine uses, or the environment names.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var(MIRROR)
        && !mirror.is_empty()
    {
        return Ok(mirror);
    }
    if !apt::is_there() {
        bail!("Debian's kernels are fetched with apt, and there is none here");
    }
    let targets = || {
        process::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(ORIGIN) $(LABEL)",
            "Created-By: Packages",
        ]))
    };
    let mut mirror = parse_mirror(&targets()?);
    if mirror.is_none() && process::is_root() {
        apt::update()?;
        mirror = parse_mirror(&targets()?);
    }
    mirror.with_context(|| {
        format!(
            "apt here has no source of Debian's archive (or no lists: run `apt-get update` as \
             root): set {MIRROR} to the address of a mirror of Debian"
        )
    })
}

fn sources_list(mirror: &str, suites: &[&str]) -> String {
    let signed_by = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    let lines: Vec<_> = suites
        .iter()
        .map(|suite| format!("deb {signed_by}{mirror} {suite} main\n"))
        .collect();
    lines.concat()
}

/// Of lines of address, origin and label, the address of Debian's main archive.
fn parse_mirror(targets: &str) -> Option<String> {
    targets
        .lines()
        .find_map(|line| line.strip_suffix(" Debian Debian"))
        .map(str::to_owned)
}

fn parse_records(text: &str) -> Vec<Record> {
    let stanzas = text
        .split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty());
    stanzas
        .map(|stanza| {
            let field = |name: &str| {
                let value = stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                value.unwrap_or_default().to_owned()
            };
            Record {
                package: field("Package"),
                version: field("Version"),
                depends: field("Depends"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stanza_is_a_version_of_the_package() {
        let text = "Package: linux-image-cloud-amd64\nSource: linux\nVersion: 6.12.107-1\n\
                    Depends: linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)\n\n\
                    Package: linux-image-cloud-amd64\nVersion: 6.12.94-1\n\n";
        let records = parse_records(text);
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].version, "6.12.107-1");
        assert!(records[0].depends.starts_with("linux-image-6.12.107+deb13"));
        assert_eq!(records[1].depends, "", "a package that depends on nothing");
    }

    #[test]
    fn the_mirror_is_the_main_archive_not_the_security_one() {
        let targets = "http://mirror/debian-security/ Debian Debian-Security\n\
                       http://mirror/debian/ Debian Debian\n";
        assert_eq!(
            parse_mirror(targets).as_deref(),
            Some("http://mirror/debian/")
        );
        assert_eq!(parse_mirror("http://mirror/ubuntu/ Ubuntu Ubuntu\n"), None);
    }
}
