//! Which pods are enrolled or known, on disk: what a daemon that starts again has to take over.
//!
//! One JSON file a pod. A record is written before any kernel state is made, so that nothing is
//! captured without one, and says that a pod is free only after all of it is gone.

use std::{
    fs, io,
    io::Write as _,
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
