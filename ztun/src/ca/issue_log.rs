//! What was signed, for whom and for how long: a line of JSON for each certificate, on disk before the
//! certificate leaves.
//!
//! The file is only ever appended to. It may be moved away at any time: the next line begins a new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::mesh::Identity;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    pub serial: &'a str,
    pub identity: &'a Identity,
    pub node: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    pub peer: SocketAddr,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("can't write {path}: {reason}; it needs a writable directory with free space")]
pub struct IssueLogError {
    path: PathBuf,
    reason: String,
}

/// Writes on a thread of its own: a slow disk delays those who wait for their line, and nobody else.
#[derive(Debug)]
pub struct IssueLog {
    lines: mpsc::Sender<Line>,
    broken: Arc<AtomicBool>,
    path: PathBuf,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    written: oneshot::Sender<Result<(), IssueLogError>>,
}

impl IssueLog {
    pub fn open(path: &Path) -> Result<Self, IssueLogError> {
        let mut writer = Writer {
            path: path.to_owned(),
            file: None,
        };
        writer.file().map_err(|error| writer.failed(&error))?;
        let (lines, queue) = mpsc::channel();
        let broken = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&broken);
        thread::Builder::new()
            .name("ztun-issue-log".into())
            .spawn(move || write(&queue, writer, &told))
            .map_err(|error| IssueLogError {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            lines,
            broken,
            path: path.to_owned(),
        })
    }

    /// Returns once the record is on disk.
    pub async fn append(&self, record: &Record<'_>) -> Result<(), IssueLogError> {
        let failed = |reason: String| IssueLogError {
            path: self.path.clone(),
            reason,
        };
        let mut text = serde_json::to_vec(record).map_err(|error| failed(error.to_string()))?;
        text.push(b'\n');
        let (written, done) = oneshot::channel();
        self.lines
            .send(Line { text, written })
            .map_err(|_| failed("its writer has ended".into()))?;
        done.await
            .map_err(|_| failed("its writer has ended".into()))?
    }

    /// Whether the last line could not be written.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Lines that came while the disk was busy are written together, and share its next sync.
fn write(queue: &mpsc::Receiver<Line>, mut writer: Writer, broken: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Line> = [first].into_iter().chain(queue.try_iter()).collect();
        let text: Vec<u8> = batch.iter().flat_map(|line| &line.text).copied().collect();
        let result = writer.append(&text).map_err(|error| writer.failed(&error));
        broken.store(result.is_err(), Ordering::Relaxed);
        for line in batch {
            // Whoever asked may be gone.
            let _ = line.written.send(result.clone());
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: Option<File>,
}

impl Writer {
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let mut file = self.file()?;
        file.write_all(text)?;
        file.sync_data()?;
        // Only now: after a failure the file is opened anew, and its end looked at.
        self.file = Some(file);
        Ok(())
    }

    /// The open file, if the path still leads to it, or else the one that is there, or a new one.
    fn file(&mut self) -> io::Result<File> {
        if let Some(file) = self.file.take()
            && is_at(&file, &self.path)
        {
            return Ok(file);
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o640)
            .open(&self.path)?;
        if ends_within_a_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    fn failed(&self, error: &io::Error) -> IssueLogError {
        IssueLogError {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// A disk that ran full, or a crash, may have left a part of a line.
fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    fn log() -> (TempDir, PathBuf, IssueLog) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("deep/issued.jsonl");
        let log = IssueLog::open(&path).unwrap();
        (directory, path, log)
    }

    async fn append(log: &IssueLog, serial: &str) -> Result<(), IssueLogError> {
        log.append(&Record {
            time: OffsetDateTime::UNIX_EPOCH,
            serial,
            identity: &"spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
            node: "a",
            not_after: OffsetDateTime::UNIX_EPOCH,
            peer: "10.0.0.1:4000".parse().unwrap(),
        })
        .await
    }

    fn serials(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let serial = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line["serial"].as_str()?.to_owned())
        };
        text.lines().filter_map(serial).collect()
    }

    #[tokio::test]
    async fn a_line_has_serial_identity_node_expiry_and_peer() {
        let (_directory, path, log) = log();
        append(&log, "c0ffee").await.unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            r#"{"time":"1970-01-01T00:00:00Z","serial":"c0ffee","identity":"spiffe://cluster.local/ns/shop/sa/cart","node":"a","notAfter":"1970-01-01T00:00:00Z","peer":"10.0.0.1:4000"}
"#
        );
    }

    #[tokio::test]
    async fn a_log_that_is_moved_away_begins_anew() {
        let (_directory, path, log) = log();
        append(&log, "1").await.unwrap();
        let moved = path.with_extension("1");
        fs::rename(&path, &moved).unwrap();
        append(&log, "2").await.unwrap();
        assert_eq!(
            (serials(&moved), serials(&path)),
            (vec!["1".into()], vec!["2".into()])
        );
    }

    #[tokio::test]
    async fn a_log_goes_on_where_it_ended_also_within_a_line() {
        let (_directory, path, log) = log();
        append(&log, "1").await.unwrap();
        drop(log);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"time\":\"19");
        fs::write(&path, text).unwrap();
        let log = IssueLog::open(&path).unwrap();
        append(&log, "2").await.unwrap();
        assert_eq!(serials(&path), ["1", "2"]);
    }

    #[tokio::test]
    async fn a_log_that_can_not_be_written_says_so_until_it_can() {
        let (_directory, path, log) = log();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.parent().unwrap(), "in the way").unwrap();
        let error = append(&log, "1").await.unwrap_err().to_string();
        assert!(error.contains("issued.jsonl") && log.is_broken(), "{error}");
        fs::remove_file(path.parent().unwrap()).unwrap();
        append(&log, "2").await.unwrap();
        assert!(!log.is_broken());
        assert_eq!(serials(&path), ["2"]);
    }
}
