//! Which pods are enrolled or known, on disk: what a daemon that starts again has to take over.
//!
//! One JSON file a pod. A record is written before any kernel state is made, so that nothing is
//! captured without one, and says that a pod is free only after all of it is gone.

use std::{
    fs, io,
    io::Write as _,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{mesh::PodName, redirect::PodSandbox};

/// A pod's sandbox on this node, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub sandbox: PodSandbox,
    pub origin: Origin,
    pub standing: Standing,
}

/// How a pod came to be enrolled or known: who decides about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Somebody asked for just this: labels change nothing.
    Asked,
    /// A container runtime told of it: the mesh state decides.
    Runtime,
    /// This daemon found it running, and can find it again: the mesh state decides.
    Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is captured, or closed until it is.
    Enrolled,
    /// It runs free.
    Known,
}

#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
}

/// Makes the state directory one daemon's. It ends with the last descriptor of this file, which a
/// successor gets too: no moment is nobody's.
#[derive(Debug)]
pub struct StateLock(fs::File);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "another daemon uses the state directory {directory}; end it first, or configure another `stateDirectory`"
    )]
    InUse { directory: PathBuf },
    #[error(
        "cannot lock the state directory {directory}: {source}; check that it is writable by root"
    )]
    Io {
        directory: PathBuf,
        source: io::Error,
    },
}

impl StateLock {
    pub fn take(state_directory: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            directory: state_directory.to_owned(),
            source,
        };
        fs::create_dir_all(state_directory).map_err(failed)?;
        let file = fs::File::create(Self::path(state_directory)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(LockError::InUse {
                directory: state_directory.to_owned(),
            }),
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// A predecessor's; `None` if it locks another directory.
    pub fn inherited(descriptor: OwnedFd, state_directory: &Path) -> Option<Self> {
        let file = fs::File::from(descriptor);
        let (its, ours) = (
            file.metadata().ok()?,
            fs::metadata(Self::path(state_directory)).ok()?,
        );
        ((its.dev(), its.ino()) == (ours.dev(), ours.ino())).then_some(Self(file))
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(Into::into)
    }

    fn path(state_directory: &Path) -> PathBuf {
        state_directory.join("lock")
    }
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
    pub fn all(&self) -> Result<Vec<Record>, RecordError> {
        let failed = |source| RecordError {
            action: "list",
            path: self.directory.clone(),
            source,
        };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(
                    path = %path.display(), %error,
                    "enrolment record is unreadable; its pod stays closed until it is enrolled again"
                ),
            }
        }
        records.sort_by(|a, b| a.sandbox.pod.cmp(&b.sandbox.pod));
        Ok(records)
    }

    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.sandbox.pod);
        let temporary = path.with_extension("tmp");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
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

fn read(path: &Path) -> io::Result<Record> {
    let value: Value = serde_json::from_slice(&fs::read(path)?)?;
    if value.get("sandbox").is_some() {
        return Ok(serde_json::from_value(value)?);
    }
    // Up to version 0.1 a record was the sandbox alone, and its pod enrolled. Who asked for that is not
    // known, so labels don't set it free.
    Ok(Record {
        sandbox: serde_json::from_value(value)?,
        origin: Origin::Asked,
        standing: Standing::Enrolled,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            sandbox: PodSandbox {
                pod: PodName::new("default", name),
                uid: "u".into(),
                sandbox_id: "s".into(),
                netns: "/run/netns/x".into(),
                cgroup: "/sys/fs/cgroup/x".into(),
            },
            origin: Origin::Runtime,
            standing: Standing::Known,
        }
    }

    #[test]
    fn what_is_written_is_there_for_the_next_daemon() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        records.write(&record("b")).unwrap();
        records.write(&record("a")).unwrap();
        records.write(&record("c")).unwrap();
        records.remove(&PodName::new("default", "c")).unwrap();
        records.remove(&PodName::new("default", "never")).unwrap();

        let next = Records::open(state.path()).unwrap();
        assert_eq!(next.all().unwrap(), [record("a"), record("b")]);
    }

    #[test]
    fn a_state_directory_is_one_daemons_until_the_last_descriptor_is_closed() {
        let state = tempfile::tempdir().unwrap();
        let lock = StateLock::take(state.path()).unwrap();
        let handed = lock.try_clone().unwrap();
        drop(lock);
        let taken = StateLock::take(state.path());
        assert!(matches!(taken, Err(LockError::InUse { .. })), "{taken:?}");

        let elsewhere = tempfile::tempdir().unwrap();
        StateLock::take(elsewhere.path()).unwrap();
        let handed_too = handed.try_clone().unwrap();
        assert!(StateLock::inherited(handed_too, elsewhere.path()).is_none());
        drop(StateLock::inherited(handed, state.path()).unwrap());
        StateLock::take(state.path()).unwrap();
    }

    #[test]
    fn an_unreadable_record_does_not_hide_the_others() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        records.write(&record("a")).unwrap();
        fs::write(state.path().join("pods/default_torn.json"), "{").unwrap();
        assert_eq!(records.all().unwrap(), [record("a")]);
    }

    #[test]
    fn a_record_of_an_earlier_version_is_of_an_enrolled_pod_that_labels_do_not_free() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        let sandbox = record("old").sandbox;
        let text = serde_json::to_vec(&sandbox).unwrap();
        fs::write(state.path().join("pods/default_old.json"), text).unwrap();
        let read = Record {
            sandbox,
            origin: Origin::Asked,
            standing: Standing::Enrolled,
        };
        assert_eq!(records.all().unwrap(), [read]);
    }
}
