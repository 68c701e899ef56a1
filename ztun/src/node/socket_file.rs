//! The path of a Unix socket: it goes with the daemon that listens there last.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::server::BindError;

/// Removed when it is dropped, unless it was handed over.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    is_ours: AtomicBool,
}

impl SocketFile {
    /// Makes place for a socket at `path`, where nobody listens.
    pub fn prepare(path: &Path) -> Result<Arc<Self>, BindError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|source| BindError::io(path, source))?;
        }
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BindError::io(path, source))
            }
            _ => {
                let file = Self::inherited(path);
                file.take();
                Ok(file)
            }
        }
    }

    /// A predecessor's, until it is taken.
    pub fn inherited(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            is_ours: AtomicBool::new(false),
        })
    }

    /// Lets root alone connect.
    pub fn restrict(&self) -> Result<(), BindError> {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&self.path, mode).map_err(|source| BindError::io(&self.path, source))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn take(&self) {
        self.is_ours.store(true, Ordering::Relaxed);
    }

    /// Leaves the path to a successor.
    pub fn hand_over(&self) {
        self.is_ours.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
