//! An initramfs: a cpio archive in the format `newc`, which is what the kernel unpacks.
//!
//! The format is the kernel's own description: Documentation/driver-api/early-userspace/buffer-format.rst.

const ALIGNMENT: usize = 4;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the making. Folders come before what is in them.
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: usize,
}

impl Archive {
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[], (0, 0));
    }

    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, content, (0, 0));
    }

    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content, (0, 0));
    }

    pub fn character_device(&mut self, path: &str, major: usize, minor: usize) {
        self.entry(path, CHARACTER_DEVICE, &[], (major, minor));
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], (major, minor): (usize, usize)) {
        self.inodes += 1;
        let name_length = path.len() + 1;
        self.bytes.extend(b"070701");
        let mode = mode as usize;
        let links = 1;
        let fields = [
            self.inodes,
            mode,
            0, // user
            0, // group
            links,
            0, // time of modification
            content.len(),
            0, // the device that it was on
            0,
            major,
            minor,
            name_length,
            0, // no checksum in this variant
        ];
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        let length = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("lib");
        archive.file("lib/odd", b"abc");
        archive.program("init", b"\x7fELF");
        archive.character_device("console", 5, 1);
        archive.finish()
    }

    #[test]
    fn headers_names_and_contents_start_at_multiples_of_four() {
        let bytes = archive();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let starts = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| window == b"070701")
            .map(|(at, _)| at);
        let starts: Vec<_> = starts.collect();
        assert_eq!(starts.len(), 5, "four entries and the trailer");
        assert!(starts.iter().all(|at| at % ALIGNMENT == 0), "{starts:?}");
        let content = bytes.windows(3).position(|window| window == b"abc");
        assert_eq!(content.unwrap() % ALIGNMENT, 0);
    }

    #[test]
    fn the_system_s_own_cpio_reads_it() {
        let Ok(mut cpio) = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            // Not everybody has it; the guests' kernels read these archives in any case.
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive()).unwrap();
        let list = cpio.wait_with_output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let names: Vec<_> = list
            .lines()
            .map(|line| (&line[..10], line.rsplit(' ').next().unwrap()))
            .collect();
        assert_eq!(
            names,
            [
                ("drwxr-xr-x", "lib"),
                ("-rw-r--r--", "lib/odd"),
                ("-rwxr-xr-x", "init"),
                ("crw-------", "console")
            ]
        );
    }
}
