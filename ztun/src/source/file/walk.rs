//! Finds the files of a directory and tells whether one has changed.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Younger changes may be followed by another with the same stamp: file times are coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let age = metadata
            .modified()
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: age.is_some_and(|age| age > SETTLED),
        }
    }

    /// Whether a file read at `self` has for certain the same content at `now`.
    pub(super) fn is_current(self, now: Self) -> bool {
        self.settled && self == now
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of their paths.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    pub(super) directories: HashSet<PathBuf>,
    /// A file or directory goes by several names, so that what happens to one may concern another.
    pub(super) has_links: bool,
}

/// What stands at one path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing {
    File(Stamp),
    Nothing,
    Other,
}

/// The YAML and JSON files below `root`, subdirectories included.
///
/// Symbolic links are followed. Hidden names are left out, which is what makes a mounted
/// `ConfigMap` work: its files are links into a hidden directory that is swapped as one.
pub(super) fn files(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut visited = HashSet::new();
    visited.insert(identity(&fs::metadata(root)?));
    let mut directories = vec![root.to_owned()];
    let mut first = true;
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if first => return Err(error),
            // It went away, or isn't ours to read: as if it had no files.
            Err(_) => continue,
        };
        first = false;
        for entry in entries.flatten() {
            let path = entry.path();
            if is_hidden(&path) {
                continue;
            }
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            found.has_links |= entry.file_type().map_or(true, |kind| kind.is_symlink());
            if metadata.is_dir() && visited.insert(identity(&metadata)) {
                directories.push(path);
            } else if metadata.is_file() && is_manifest(&path) {
                found.has_links |= metadata.nlink() > 1;
                found.files.insert(path, Stamp::of(&metadata));
            }
        }
        found.directories.insert(directory);
    }
    Ok(found)
}

/// What stands at the path of a file that [`files`] would list.
pub(super) fn look_at(path: &Path) -> Standing {
    if is_hidden(path) || !is_manifest(path) {
        return Standing::Other;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => {
            Standing::File(Stamp::of(&metadata))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Standing::Nothing,
        _ => Standing::Other,
    }
}

/// Whether a plain file stands there that [`files`] would not list.
pub(super) fn is_foreign(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path);
    !is_manifest(path) && metadata.is_ok_and(|metadata| metadata.is_file())
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
