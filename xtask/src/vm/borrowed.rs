//! Programs of this machine that guests borrow, with the libraries that they are linked with.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::Result;

use super::{cpio::Archive, image::read};
use crate::process;

/// Tests drive them. Where one is not installed, its tests say so.
const PROGRAMS: [&str; 1] = ["nft"];

/// Adds the programs to `/bin`, and the libraries where the dynamic linker looks for them.
pub fn add_to(archive: &mut Archive) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let Some(program) = process::find(name) else {
            continue;
        };
        archive.program(&format!("bin/{name}"), &read(&program)?);
        let linked = process::output(Command::new("ldd").arg(&program))?;
        libraries.extend(parse(&linked).map(str::to_owned));
    }
    let folders: BTreeSet<_> = libraries
        .iter()
        .flat_map(|library| Path::new(library).ancestors().skip(1))
        .filter_map(|folder| folder.strip_prefix("/").ok()?.to_str())
        .filter(|folder| !folder.is_empty())
        .collect();
    for folder in folders {
        archive.directory(folder);
    }
    for library in &libraries {
        archive.program(&library[1..], &read(Path::new(library))?);
    }
    Ok(())
}

/// The files in ldd(1)'s answer, the dynamic linker among them.
fn parse(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_dynamic_linker_are_files_and_the_kernel_s_own_is_not() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f0de3e0a000)\n\
                   \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f0de3af3000)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f0de3e0c000)\n";
        let files: Vec<_> = parse(ldd).collect();
        assert_eq!(
            files,
            [
                "/lib/x86_64-linux-gnu/libmnl.so.0",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn a_program_that_is_linked_statically_has_no_files() {
        assert_eq!(parse("\tstatically linked\n").count(), 0);
    }
}
