//! The toolchain from Debian's packages, which carry a libcore prebuilt for BPF. They are
//! unpacked into the cache: nothing is installed system-wide.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Toolchain, apt, bpf_linker, cache::Cache};
use crate::process::{self, say};

/// The compiler that Debian keeps recent for its browsers, and the one that has a BPF libcore.
const RUSTC: &str = "rustc-web";
const LIBSTD: &str = "libstd-rust-web-dev";
const LIBCORE_BPF: &str = "libstd-rust-web-dev-bpf";

const ENTRY: &str = "debian";

fn recipe() -> String {
    format!("layout 1, bpf-linker {}", bpf_linker::VERSION)
}

/// What an earlier set-up left, if it still works.
pub fn installed(cache: &Cache) -> Option<Toolchain> {
    let entry = cache.entry(ENTRY);
    let rust = entry.dir().join("usr");
    let works = entry.is_complete(&recipe())
        && rust.join("bin/rustc").exists()
        && bpf_linker::is_installed(entry.dir(), &rust);
    works.then(|| Toolchain::in_folder(&rust, entry.dir().join("bin")))
}

/// Debian's packages, in the version that apt offers.
pub struct Source {
    version: String,
}

impl Source {
    /// None where apt does not have the packages: not Debian, or a release without them.
    pub fn find() -> Result<Option<Self>> {
        if !apt::is_there() {
            return Ok(None);
        }
        let mut candidate = apt::candidate(LIBCORE_BPF)?;
        if candidate.is_none() && process::is_root() {
            apt::update()?;
            candidate = apt::candidate(LIBCORE_BPF)?;
        }
        if candidate.is_none() {
            say(format_args!(
                "apt has no {LIBCORE_BPF} here (Debian 12 has it in its security suite; if this \
                 is one, run `apt-get update` as root): using rustup instead"
            ));
        }
        Ok(candidate.map(|version| Self { version }))
    }

    pub fn install(&self, cache: &Cache) -> Result<Toolchain> {
        if process::find("rustup").is_none() {
            bail!("rustup is not installed: the build runs this toolchain through `rustup run`");
        }
        let entry = cache.entry(ENTRY);
        let rust = entry.dir().join("usr");
        entry.make(&recipe(), |dir| {
            let packages = self.packages()?;
            download(&packages, dir)?;
            let llvm_release = lay_out(&rust, &[dir.join("lib")])?;
            bpf_linker::install(dir, &rust, llvm_release)
        })?;
        installed(cache).context("it was set up, but its bpf-linker does not run")
    }

    /// `package=version` of everything that has to be unpacked.
    fn packages(&self) -> Result<Vec<String>> {
        let version = &self.version;
        let libstd_shared = dependency(&apt::depends(LIBSTD, version)?, "libstd-rust-web-")
            .with_context(|| format!("{LIBSTD} {version} depends on no libstd-rust-web-*"))?;
        let llvm = dependency(&apt::depends(&libstd_shared, version)?, "libllvm")
            .with_context(|| format!("{libstd_shared} {version} depends on no libllvm*"))?;

        let mut packages: Vec<_> = [RUSTC, &libstd_shared, LIBSTD, LIBCORE_BPF]
            .map(|package| format!("{package}={version}"))
            .into();
        // LLVM's own dependencies that the system lacks are needed too; where LLVM is installed
        // nothing is missing, but it must still be unpacked.
        let mut llvm_packages = apt::missing_with_dependencies(&llvm)?;
        if !llvm_packages.contains(&llvm) {
            llvm_packages.push(llvm);
        }
        packages.append(&mut llvm_packages);
        Ok(packages)
    }
}

fn download(packages: &[String], dir: &Path) -> Result<()> {
    say(format_args!(
        "downloading {} and unpacking into {} (about 120 MB; nothing is installed system-wide)",
        packages.join(", "),
        dir.display(),
    ));
    let debs = dir.join("debs");
    fs::create_dir(&debs).with_context(|| format!("cannot create {}", debs.display()))?;
    if let Err(error) = apt::download(packages, &debs) {
        // A list that is some days old names files that the mirror has since replaced.
        if !process::is_root() {
            return Err(error.context("if the package lists are old, run `apt-get update` as root"));
        }
        apt::update()?;
        apt::download(packages, &debs)?;
    }
    for deb in files(&debs)? {
        process::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(dir))?;
    }
    fs::remove_dir_all(&debs).with_context(|| format!("cannot remove {}", debs.display()))
}

/// Makes the unpacked `usr` a toolchain's folder: its shared libraries, which Debian keeps in a
/// folder for the architecture, are linked into `lib`, where rustup and bpf-linker look.
/// Answers LLVM's release.
fn lay_out(usr: &Path, more_libs: &[PathBuf]) -> Result<u32> {
    let lib = usr.join("lib");
    let mut llvm = None;
    for parent in std::iter::once(&lib).chain(more_libs) {
        for library in shared_libraries(parent)? {
            let Some(name) = library.file_name() else {
                continue;
            };
            let link = lib.join(name);
            symlink(&library, &link)
                .with_context(|| format!("cannot create {}", link.display()))?;
            if let Some(release) = name.to_str().and_then(bpf_linker::llvm_release) {
                llvm = Some((release, library));
            }
        }
    }
    let (release, library) = llvm.context("the packages hold no libLLVM.so.NN")?;
    symlink(library, lib.join("libLLVM.so")).context("cannot link libLLVM.so")?;
    Ok(release)
}

/// The shared libraries in a folder's `*-linux-gnu*` folders.
fn shared_libraries(parent: &Path) -> Result<Vec<PathBuf>> {
    if !parent.exists() {
        return Ok(Vec::new());
    }
    let mut libraries = Vec::new();
    for dir in files(parent)? {
        if dir.is_dir() && name_contains(&dir, "-linux-gnu") {
            libraries.extend(
                files(&dir)?
                    .into_iter()
                    .filter(|file| name_contains(file, ".so")),
            );
        }
    }
    Ok(libraries)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect()
        })
        .with_context(|| format!("cannot read {}", dir.display()))
}

fn name_contains(path: &Path, part: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().contains(part))
}

/// The dependency whose name starts so and goes on with a digit.
fn dependency(depends: &str, prefix: &str) -> Option<String> {
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn versioned_packages_are_found_among_dependencies() {
        let libstd = "libstd-rust-web-1.96 (= 1.96.0+dfsg1-1~deb12u2)";
        assert_eq!(
            dependency(libstd, "libstd-rust-web-").as_deref(),
            Some("libstd-rust-web-1.96")
        );
        let shared = "libc6 (>= 2.36), libgcc-s1 (>= 4.2), libllvm22 (>= 1:22.1), libstdc++6";
        assert_eq!(dependency(shared, "libllvm").as_deref(), Some("libllvm22"));
        assert_eq!(dependency("libllvm-ocaml-dev, libc6", "libllvm"), None);
    }

    #[test]
    fn libraries_of_the_architecture_become_the_toolchains() {
        let dir = tempfile::tempdir().unwrap();
        let usr = dir.path().join("usr");
        let gnu = usr.join("lib/x86_64-linux-gnu");
        let system = dir.path().join("lib/x86_64-linux-gnu");
        for dir in [&gnu, &system] {
            fs::create_dir_all(dir).unwrap();
        }
        for file in [
            gnu.join("libLLVM.so.22.1"),
            gnu.join("librustc_driver-1.so"),
            system.join("libtinfo.so.6"),
            gnu.join("readme"),
        ] {
            fs::write(file, "").unwrap();
        }

        assert_eq!(lay_out(&usr, &[dir.path().join("lib")]).unwrap(), 22);

        for link in [
            "libLLVM.so",
            "libLLVM.so.22.1",
            "librustc_driver-1.so",
            "libtinfo.so.6",
        ] {
            assert!(usr.join("lib").join(link).exists(), "{link}");
        }
        assert!(!usr.join("lib/readme").exists());
    }

    #[test]
    fn packages_without_llvm_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib/x86_64-linux-gnu")).unwrap();
        lay_out(dir.path(), &[]).expect_err("no LLVM");
    }
}
