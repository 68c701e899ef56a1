//! A kernel's modules: which files a guest needs, in the order in which they load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Guests can't do without them. A kernel may have any of them built in.
const NEEDED: [&str; 2] = ["veth", "bridge"];

/// Loaded where the kernel has them: what tests probe for, and the network between two guests.
const OPTIONAL: [&str; 18] = [
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "netkit",
    "tls",
    "tcp_diag",
    "inet_diag",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_nat",
    "dummy",
];

pub struct Module {
    pub name: String,
    /// The ELF file, not compressed.
    pub content: Vec<u8>,
}

/// The modules of the kernel whose folder (`…/lib/modules/RELEASE`) this is, each after those that it
/// depends on.
pub fn closure(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(&directory.join("kernel"), &mut files)?;
    let builtin = directory.join("modules.builtin");
    let builtin = fs::read_to_string(&builtin)
        .with_context(|| format!("cannot read {}", builtin.display()))?;
    let builtin: BTreeSet<_> = builtin
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();

    let mut closure = Closure {
        files: &files,
        builtin: &builtin,
        known: BTreeSet::new(),
        modules: Vec::new(),
    };
    for name in NEEDED {
        closure.add(name)?;
    }
    for name in OPTIONAL {
        if files.contains_key(name) {
            closure.add(name)?;
        }
    }
    Ok(closure.modules)
}

struct Closure<'a> {
    files: &'a BTreeMap<String, PathBuf>,
    builtin: &'a BTreeSet<String>,
    known: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Closure<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.known.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("this kernel has no module {name}");
        };
        let content = read(file)?;
        let dependencies = modinfo(&content, "depends")
            .with_context(|| format!("{} is no kernel module", file.display()))?;
        for dependency in dependencies.split(',').filter(|name| !name.is_empty()) {
            self.add(&dependency.replace('-', "_"))?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `…/nft-example.ko.xz` is the module `nft_example`.
fn module_name(file: &Path) -> Option<String> {
    let (name, rest) = file.file_name()?.to_str()?.split_once(".ko")?;
    let is_module = rest.is_empty() || rest.starts_with('.');
    is_module.then(|| name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(file)
            .output()
            .context("cannot start xz, which decompresses kernel modules: install xz-utils")?;
        if !output.status.success() {
            bail!("xz cannot decompress {}", file.display());
        }
        return Ok(output.stdout);
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The value of a key in a module's section `.modinfo`; empty where it isn't there, none where the
/// file is no module (64-bit, little-endian ELF).
fn modinfo(elf: &[u8], key: &str) -> Option<String> {
    let section = section(elf, ".modinfo")?;
    let entry = section.split(|byte| *byte == 0).find_map(|entry| {
        std::str::from_utf8(entry)
            .ok()?
            .strip_prefix(key)?
            .strip_prefix('=')
    });
    Some(entry.unwrap_or_default().to_owned())
}

/// A section of an ELF file by its name (the ELF-64 object file format, "Section header").
fn section<'a>(elf: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    const TABLE_OFFSET: usize = 0x28;
    const ENTRY_SIZE: usize = 0x3a;
    const ENTRIES: usize = 0x3c;
    const NAMES_INDEX: usize = 0x3e;
    if !elf.starts_with(b"\x7fELF") {
        return None;
    }
    let table = read_u64(elf, TABLE_OFFSET)?;
    let entry_size = read_u16(elf, ENTRY_SIZE)?;
    let header = |index: usize| Some(table + index * entry_size);
    let content = |header: usize| {
        let (offset, size) = (read_u64(elf, header + 0x18)?, read_u64(elf, header + 0x20)?);
        elf.get(offset..offset.checked_add(size)?)
    };
    let names = content(header(read_u16(elf, NAMES_INDEX)?)?)?;
    (0..read_u16(elf, ENTRIES)?).find_map(|index| {
        let header = header(index)?;
        let name = names.get(read_u32(elf, header)?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        (name == wanted.as_bytes()).then(|| content(header))?
    })
}

fn read_u64(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(usize::from(u16::from_le_bytes(bytes)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An ELF file with the sections of names and `.modinfo`, and nothing else.
    fn module(info: &[u8]) -> Vec<u8> {
        const HEADER: usize = 64;
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = vec![0; HEADER];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf.extend(names);
        elf.extend(info);
        let table = elf.len();
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
        for (name, offset, size) in [
            (1u32, HEADER, names.len()),
            (11, HEADER + names.len(), info.len()),
        ] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn dependencies_are_read_from_the_module_itself() {
        let elf = module(b"license=GPL\0depends=stp,llc\0name=bridge\0");
        assert_eq!(modinfo(&elf, "depends").unwrap(), "stp,llc");
        assert_eq!(modinfo(&elf, "alias").unwrap(), "");
        assert_eq!(modinfo(b"#!/bin/sh", "depends"), None);
        assert_eq!(modinfo(&elf[..70], "depends"), None, "cut short");
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/net");
        fs::create_dir_all(&kernel).unwrap();
        for (name, depends) in [
            ("veth", ""),
            ("bridge", "stp,llc"),
            ("stp", "llc"),
            ("llc", ""),
            ("nf-tables", "crc32c_generic"),
        ] {
            let info = format!("depends={depends}\0");
            fs::write(kernel.join(format!("{name}.ko")), module(info.as_bytes())).unwrap();
        }
        fs::write(
            directory.path().join("modules.builtin"),
            "kernel/crypto/crc32c_generic.ko\n",
        )
        .unwrap();
        let modules = closure(directory.path()).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["veth", "llc", "stp", "bridge", "nf_tables"]);
    }

    #[test]
    fn a_kernel_without_a_needed_module_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("kernel")).unwrap();
        fs::write(directory.path().join("modules.builtin"), "").unwrap();
        let error = closure(directory.path()).err().unwrap();
        assert!(error.to_string().contains("veth"), "{error}");
    }

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        let name = |file: &str| module_name(Path::new(file));
        assert_eq!(name("kernel/net/nft-ct.ko.xz").as_deref(), Some("nft_ct"));
        assert_eq!(name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(name("modules.order"), None);
    }
}
