//! The kernels: Debian's, for virtual machines, unpacked into the cache and never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::archive::{Archive, Record};
use crate::setup::cache::Cache;

/// What a kernel is expected to do with ztun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Support {
    Full,
    /// The daemon says what is missing, and leaves everything as it was.
    Refused,
}

/// A kernel of the matrix.
#[derive(Debug)]
pub struct Wanted {
    /// What it is called in the tests' paths.
    pub name: &'static str,
    /// What the cache calls the kernel: one may be booted in several ways.
    cached_as: &'static str,
    /// Added to the kernel's command line.
    pub parameters: &'static str,
    pub support: Support,
    pub scope: Scope,
    pub cgroups: Cgroups,
    /// `rp_filter`: 0 off, 1 strict, 2 loose.
    pub reverse_path_filter: u8,
    /// Tests of what this kernel lacks, without `vm::NAME::`: they may skip, all others may not.
    pub may_skip: &'static [&'static str],
    /// Releases that will do.
    release: Release,
    /// Suites of Debian that have or had it, the first choice first.
    suites: &'static [&'static str],
}

/// Which tests a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    Everything,
    /// What the kernel has a part in.
    Kernel,
    /// What can be without IPv6, of each kind.
    WithoutIpv6,
}

#[derive(Clone, Copy, Debug)]
pub enum Cgroups {
    Unified,
    Hybrid,
}

#[derive(Debug)]
enum Release {
    Series(u32, u32),
    NewestSince(u32),
}

/// The kernel has IPv6, and does as if it had not.
const WITHOUT_IPV6: &str = "ipv6.disable=1";

/// As versions are read: the oldest first.
pub const MATRIX: [Wanted; 5] = [
    Wanted {
        name: "5.10",
        cached_as: "5.10",
        parameters: "",
        support: Support::Refused,
        scope: Scope::Kernel,
        cgroups: Cgroups::Unified,
        reverse_path_filter: 0,
        may_skip: &[],
        release: Release::Series(5, 10),
        suites: &["bullseye"],
    },
    Wanted {
        name: "6.1",
        cached_as: "6.1",
        parameters: "",
        support: Support::Full,
        scope: Scope::Everything,
        cgroups: Cgroups::Unified,
        reverse_path_filter: 0,
        may_skip: &[
            "coexistence::programs::tc_programs_on_the_host_side",
            "netkit::",
        ],
        release: Release::Series(6, 1),
        suites: &["bookworm"],
    },
    Wanted {
        name: "6.12",
        cached_as: "6.12",
        parameters: "",
        support: Support::Full,
        scope: Scope::Kernel,
        cgroups: Cgroups::Hybrid,
        reverse_path_filter: 1,
        may_skip: &[],
        release: Release::Series(6, 12),
        suites: &["trixie", "bookworm-backports"],
    },
    Wanted {
        name: "6.12-without-ipv6",
        cached_as: "6.12",
        parameters: WITHOUT_IPV6,
        support: Support::Full,
        scope: Scope::WithoutIpv6,
        cgroups: Cgroups::Unified,
        reverse_path_filter: 0,
        may_skip: &[
            "coexistence::settings::a_pod_without_ipv6_",
            "coexistence::settings::a_pod_that_loses_ipv6_",
        ],
        release: Release::Series(6, 12),
        suites: &["trixie", "bookworm-backports"],
    },
    Wanted {
        name: "newest",
        cached_as: "newest",
        parameters: "",
        support: Support::Full,
        scope: Scope::Kernel,
        cgroups: Cgroups::Unified,
        reverse_path_filter: 2,
        may_skip: &[],
        release: Release::NewestSince(7),
        suites: &["trixie-backports", "sid"],
    },
];

/// The flavour for virtual machines: small, and without firmware.
const FLAVOUR: &str = "cloud-amd64";
const RECIPE: &str = "layout 1";
/// A file in the cache's entry.
const VERSION: &str = "version";

/// A kernel in the cache.
#[derive(Debug)]
pub struct Kernel {
    /// Such as `6.1.176`: the package's version, as Debian's name of a release stays for years.
    pub version: String,
    pub image: PathBuf,
    /// `…/lib/modules/RELEASE`
    pub modules: PathBuf,
}

impl Wanted {
    /// Fetches it, unless the cache has it.
    pub fn fetch(&self, cache: &Cache, mirror: impl FnOnce() -> Result<String>) -> Result<Kernel> {
        let entry = cache.entry(&format!("kernel-{}", self.cached_as));
        if !entry.is_complete(RECIPE) {
            let lists = cache.entry("lists");
            let mirror = mirror()?;
            entry.make(RECIPE, |into| self.download(&mirror, lists.dir(), into))?;
        }
        Kernel::find(entry.dir())
    }

    fn download(&self, mirror: &str, lists: &Path, into: &Path) -> Result<()> {
        let mut failures = Vec::new();
        for suite in self.suites {
            match self.download_from(suite, mirror, lists, into) {
                Ok(()) => return Ok(()),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        bail!("no suite of Debian gave it: {}", failures.join("; "))
    }

    fn download_from(&self, suite: &str, mirror: &str, lists: &Path, into: &Path) -> Result<()> {
        let archive = Archive::open(lists, mirror, &[suite])?;
        let metapackage = format!("linux-image-{FLAVOUR}");
        let versions = archive.records(&metapackage)?;
        let image = self
            .image_package(&versions)
            .with_context(|| format!("{suite} has no kernel of this series as {metapackage}"))?;
        let records = archive.records(&image)?;
        let record = records
            .first()
            .with_context(|| format!("{suite} has no package {image}"))?;
        archive.unpack(&packages_of(record), into)?;
        fs::write(into.join(VERSION), upstream(&record.version)).context("cannot write the version")
    }

    /// The package of the newest kernel that will do, of the versions of a metapackage.
    fn image_package(&self, versions: &[Record]) -> Option<String> {
        versions
            .iter()
            .filter_map(|record| Some((numbers(&record.version)?, record)))
            .filter(|(numbers, _)| self.release.accepts(*numbers))
            .max_by_key(|(numbers, _)| *numbers)
            .and_then(|(_, record)| {
                dependencies(&record.depends).find(|name| is_versioned(name, "linux-image-"))
            })
            .map(str::to_owned)
    }
}

impl Wanted {
    pub fn has_ipv6(&self) -> bool {
        self.parameters != WITHOUT_IPV6
    }
}

impl Cgroups {
    /// What `ztun-init` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Hybrid => "hybrid",
        }
    }
}

impl Release {
    fn accepts(&self, (major, minor, _): (u32, u32, u32)) -> bool {
        match *self {
            Self::Series(wanted_major, wanted_minor) => {
                (major, minor) == (wanted_major, wanted_minor)
            }
            Self::NewestSince(oldest) => major >= oldest,
        }
    }
}

impl Kernel {
    fn find(directory: &Path) -> Result<Self> {
        // Debian moves files from /lib and /boot to /usr/lib, from release to release.
        let modules = ["lib/modules", "usr/lib/modules"]
            .into_iter()
            .find_map(|place| only_child(&directory.join(place)))
            .with_context(|| format!("{} has no modules", directory.display()))?;
        let release = modules
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let image = [
            modules.join("vmlinuz"),
            directory.join(format!("boot/vmlinuz-{release}")),
        ]
        .into_iter()
        .find(|image| image.exists())
        .with_context(|| format!("{} has no vmlinuz", directory.display()))?;
        let version = directory.join(VERSION);
        let version = fs::read_to_string(&version)
            .with_context(|| format!("cannot read {}", version.display()))?;
        Ok(Self {
            version,
            image,
            modules,
        })
    }
}

/// The packages that hold a kernel's files: its own, or from Linux 7 on those that it is split into.
fn packages_of(image: &Record) -> Vec<String> {
    let parts = ["linux-base-", "linux-binary-", "linux-modules-"];
    let parts = dependencies(&image.depends)
        .filter(|name| parts.iter().any(|prefix| is_versioned(name, prefix)));
    std::iter::once(image.package.as_str())
        .chain(parts)
        .map(str::to_owned)
        .collect()
}

/// The names in a `Depends` field.
fn dependencies(depends: &str) -> impl Iterator<Item = &str> {
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
}

fn is_versioned(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// `6.12.107-1~bpo12+1` is 6, 12 and 107.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let upstream = upstream(version);
    let mut numbers = upstream.split('.').map(|number| number.parse().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

fn upstream(version: &str) -> &str {
    version.split(['-', '+', '~']).next().unwrap_or_default()
}

fn only_child(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    entries.next().map(|entry| entry.path())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> &'static Wanted {
        MATRIX.iter().find(|wanted| wanted.name == name).unwrap()
    }

    fn version(version: &str, depends: &str) -> Record {
        Record {
            package: "linux-image-cloud-amd64".into(),
            version: version.into(),
            depends: depends.into(),
        }
    }

    #[test]
    fn the_newest_release_of_the_series_is_taken() {
        let versions = [
            version("6.12.94-1", "linux-image-6.12.94+deb13-cloud-amd64"),
            version(
                "6.12.107-1",
                "linux-base, linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)",
            ),
            version("6.1.176-1", "linux-image-6.1.0-50-cloud-amd64"),
        ];
        let package = |name| wanted(name).image_package(&versions);
        assert_eq!(
            package("6.12").unwrap(),
            "linux-image-6.12.107+deb13-cloud-amd64"
        );
        assert_eq!(package("6.1").unwrap(), "linux-image-6.1.0-50-cloud-amd64");
        assert_eq!(package("newest"), None, "6.12 is not new enough");
    }

    #[test]
    fn the_newest_is_newer_than_a_next_major_release_even() {
        let versions = [
            version("7.3.4-1~bpo13+1", "linux-image-7.3.4+deb13-cloud-amd64"),
            version("8.0.1-1", "linux-image-8.0.1-cloud-amd64"),
        ];
        assert_eq!(
            wanted("newest").image_package(&versions).unwrap(),
            "linux-image-8.0.1-cloud-amd64"
        );
    }

    #[test]
    fn a_kernel_that_is_split_is_fetched_with_its_parts() {
        let record = Record {
            package: "linux-image-7.3.4+deb13-cloud-amd64".into(),
            version: "7.3.4-1~bpo13+1".into(),
            depends:
                "dracut | initramfs-tools (>= 0.120) | linux-initramfs-tool, linux-base (>= 4), \
                      linux-base-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), \
                      linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), \
                      linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)"
                    .into(),
        };
        assert_eq!(
            packages_of(&record),
            [
                "linux-image-7.3.4+deb13-cloud-amd64",
                "linux-base-7.3.4+deb13-cloud-amd64",
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64",
            ]
        );
        let whole = version("6.1.176-1", "kmod, linux-base (>= 4.3~), initramfs-tools");
        assert_eq!(packages_of(&whole).len(), 1);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(numbers("6.12.107-1"), Some((6, 12, 107)));
        assert_eq!(numbers("7.3~rc1-1~exp1"), Some((7, 3, 0)));
        assert!(numbers("6.12.107-1") > numbers("6.12.94-1"));
        assert_eq!(numbers("meta"), None);
    }

    #[test]
    fn both_layouts_of_debian_s_packages_are_found() {
        let split = tempfile::tempdir().unwrap();
        let modules = split.path().join("usr/lib/modules/7.3.4+deb13-cloud-amd64");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("vmlinuz"), "").unwrap();
        fs::write(split.path().join(VERSION), "7.3.4").unwrap();
        let kernel = Kernel::find(split.path()).unwrap();
        assert_eq!(kernel.image, modules.join("vmlinuz"));
        assert_eq!(kernel.version, "7.3.4");

        let whole = tempfile::tempdir().unwrap();
        fs::create_dir_all(whole.path().join("lib/modules/6.1.0-50-cloud-amd64")).unwrap();
        fs::create_dir(whole.path().join("boot")).unwrap();
        let image = whole.path().join("boot/vmlinuz-6.1.0-50-cloud-amd64");
        fs::write(&image, "").unwrap();
        fs::write(whole.path().join(VERSION), "6.1.176").unwrap();
        assert_eq!(Kernel::find(whole.path()).unwrap().image, image);
    }
}
