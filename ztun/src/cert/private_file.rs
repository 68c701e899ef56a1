//! Files with secrets in them: read only if nobody else can.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("can't read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} has mode {mode:04o}, so that others could use or replace what is secret in it: run `chmod {fix:o} {path}`"
    )]
    Permissions { path: PathBuf, mode: u32, fix: u32 },
    #[error(
        "{path} leads to a file with mode {mode:04o}, so that others could use what is secret in it: set `defaultMode: 0400` at the secret's volume, or `chmod 600` what it leads to"
    )]
    SecretPermissions { path: PathBuf, mode: u32 },
}

/// The file's text; `None` if there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, PrivateFileError> {
    let failed = |source| PrivateFileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let refused = if is_of_a_secret_volume(path) {
        0o037
    } else {
        0o077
    };
    // Of the open file, which can't be exchanged between the check and the use.
    refuse_mode(path, &file.metadata().map_err(failed)?, refused, 0o600)?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Any of the bits `refused` is an error, whose text names the mode `fix`.
pub(super) fn refuse_mode(
    path: &Path,
    metadata: &Metadata,
    refused: u32,
    fix: u32,
) -> Result<(), PrivateFileError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & refused == 0 {
        return Ok(());
    }
    let path = path.to_owned();
    // A mode that is changed behind the links of a mounted secret is gone with its next update.
    if is_link(&path) {
        return Err(PrivateFileError::SecretPermissions { path, mode });
    }
    Err(PrivateFileError::Permissions { path, mode, fix })
}

/// The kubelet mounts secrets as a tmpfs of symbolic links, and makes them readable for a group where
/// `fsGroup` is set: that is the group of the pod that has the mount.
fn is_of_a_secret_volume(path: &Path) -> bool {
    is_link(path) && statfs(path).is_ok_and(|statfs| statfs.filesystem_type() == TMPFS_MAGIC)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}
