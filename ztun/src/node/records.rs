//! Which pods are enrolled, on disk: what a daemon that starts again has to take over.
//!
//! One JSON file a pod. A record is written before any kernel state is made, so that nothing is
//! captured without one, and removed after all of it is gone.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{mesh::PodName, redirect::PodSandbox};

#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {action} the enrolment record {path}: {source}; check that the state directory is writable by root and has space"
)]
pub struct RecordError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Records {
    /// Opens (and makes, if needed) the records under the daemon's state directory.
    pub fn open(state_directory: &Path) -> Result<Self, RecordError> {
        let directory = state_directory.join("pods");
        fs::create_dir_all(&directory).map_err(|source| RecordError {
            action: "create the directory of",
            path: directory.clone(),
            source,
        })?;
        Ok(Self { directory })
    }

    /// Every record that can be read; one that can't is reported and left in place for the operator.
    pub fn all(&self) -> Result<Vec<PodSandbox>, RecordError> {
        let failed = |source| RecordError {
            action: "list",
            path: self.directory.clone(),
            source,
        };
        let mut sandboxes = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(sandbox) => sandboxes.push(sandbox),
                Err(error) => tracing::error!(
                    path = %path.display(), %error,
                    "enrolment record is unreadable; its pod stays closed until it is enrolled again"
                ),
            }
        }
        sandboxes.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(sandboxes)
    }

    pub fn write(&self, sandbox: &PodSandbox) -> Result<(), RecordError> {
        let path = self.path(&sandbox.pod);
        let temporary = path.with_extension("tmp");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(sandbox)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| RecordError {
            action: "write",
            path,
            source,
        })
    }

    pub fn remove(&self, pod: &PodName) -> Result<(), RecordError> {
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// `_` is in no Kubernetes name, so it can't make two pods share a file.
    fn path(&self, pod: &PodName) -> PathBuf {
        self.directory
            .join(format!("{}_{}.json", pod.namespace, pod.name))
    }
}

fn read(path: &Path) -> io::Result<PodSandbox> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sandbox(name: &str) -> PodSandbox {
        PodSandbox {
            pod: PodName::new("default", name),
            uid: "u".into(),
            sandbox_id: "s".into(),
            netns: "/run/netns/x".into(),
            cgroup: "/sys/fs/cgroup/x".into(),
        }
    }

    #[test]
    fn what_is_written_is_there_for_the_next_daemon() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        records.write(&sandbox("b")).unwrap();
        records.write(&sandbox("a")).unwrap();
        records.write(&sandbox("c")).unwrap();
        records.remove(&PodName::new("default", "c")).unwrap();
        records.remove(&PodName::new("default", "never")).unwrap();

        let next = Records::open(state.path()).unwrap();
        assert_eq!(next.all().unwrap(), [sandbox("a"), sandbox("b")]);
    }

    #[test]
    fn an_unreadable_record_does_not_hide_the_others() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        records.write(&sandbox("a")).unwrap();
        fs::write(state.path().join("pods/default_torn.json"), "{").unwrap();
        assert_eq!(records.all().unwrap(), [sandbox("a")]);
    }
}
