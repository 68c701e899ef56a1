//! A directory of ordinary Kubernetes YAML and JSON as the mesh's state, watched for changes.
//!
//! What can't be used is skipped and listed in [`FileSource::problems`]; the last good version of an
//! object stays in force. A file that is gone takes its objects with it; the last one does not: a directory
//! without files is one that is not mounted, or not filled yet.

mod reading;
mod state;
mod walk;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::time::OffsetDateTime;
use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{self, Instant},
};
use tracing::{info, warn};

pub(crate) use self::reading::text;
pub use self::reading::{FileContents, Objects, read_text};
use self::state::{DirectoryState, Reported};
use super::TranslateSettings;
use crate::mesh::{Mesh, Snapshot};

/// The directory is read when nothing has changed for this long: a file that is being written isn't.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A directory that never rests is read after so many debounces all the same.
const MAX_DEBOUNCES: usize = 20;
/// For what the kernel doesn't report: files behind symbolic links, network file systems, overflows.
const RESCAN: Duration = Duration::from_secs(10);

/// The files that a source reads below `root`, in the order in which they count.
pub(crate) fn manifests(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(walk::files(root)?.files.into_keys().collect())
}

/// Something that could not be taken as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    pub file: PathBuf,
    /// Kind, namespace and name; empty where the file as a whole is meant.
    pub object: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        f.write_str(&self.message)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FileSourceError {
    #[error(
        "reading the mesh directory {directory}: {cause}: create it, or name another one with --mesh-directory"
    )]
    Directory { directory: PathBuf, cause: String },
    #[error(
        "watching the mesh directory {directory}: {source}: is fs.inotify.max_user_watches used up?"
    )]
    Watch {
        directory: PathBuf,
        source: notify::Error,
    },
}

/// Publishes the directory's mesh until it is dropped.
#[derive(Debug)]
pub struct FileSource {
    status: Arc<Status>,
    task: JoinHandle<()>,
}

/// What the kernel reported and was not looked at yet.
#[derive(Debug, Default)]
struct Changes {
    reported: Mutex<Reported>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Status {
    problems: ArcSwap<Vec<Problem>>,
    rejected: AtomicU64,
    /// When the directory could last be read, in seconds since 1970.
    as_of: AtomicI64,
}

impl FileSource {
    /// Reads `directory` and publishes it, then goes on in a task of the current Tokio runtime.
    pub fn start(
        directory: &Path,
        mesh: Arc<Mesh>,
        settings: TranslateSettings,
    ) -> Result<Self, FileSourceError> {
        let changed = Arc::new(Changes::default());
        // Watched before it is read: nothing falls in between.
        let watcher = watch(directory, &changed)?;
        let mut state = read(directory, settings)?;
        let status = Arc::new(Status::default());
        mesh.publish(state.snapshot());
        status.report(&mut state);
        status.confirm();
        let snapshot = mesh.snapshot();
        info!(
            directory = %directory.display(),
            workloads = snapshot.workloads().count(),
            services = snapshot.services().count(),
            problems = status.problems.load().len(),
            "mesh directory read"
        );
        let task = tokio::spawn(follow(state, mesh, Arc::clone(&status), changed, watcher));
        Ok(Self { status, task })
    }

    /// What is wrong with the directory now.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.status.problems.load_full()
    }

    /// When the directory was last known to hold what was published of it.
    pub fn as_of(&self) -> OffsetDateTime {
        let seconds = self.status.as_of.load(Ordering::Relaxed);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// How many objects and files were not taken since the start.
    pub fn rejected(&self) -> u64 {
        self.status.rejected.load(Ordering::Relaxed)
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Status {
    /// Each problem is logged once, when it first appears.
    fn report(&self, state: &mut DirectoryState) {
        self.rejected.store(state.rejected(), Ordering::Relaxed);
        if let Some(now) = state.changed_problems() {
            self.show(now);
        }
    }

    fn confirm(&self) {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.as_of.store(now, Ordering::Relaxed);
    }

    /// The directory itself is the problem, beside those of its last state.
    fn unreadable(&self, state: &DirectoryState, cause: &str) {
        let mut problems = state.problems();
        problems.push(Problem {
            file: state.root().to_owned(),
            object: String::new(),
            message: format!("{cause}: the last state stays in force"),
        });
        self.show(problems);
    }

    fn show(&self, now: Vec<Problem>) {
        let before = self.problems.load();
        let before: BTreeSet<&Problem> = before.iter().collect();
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            warn!(
                file = %problem.file.display(),
                object = problem.object,
                problem = problem.message,
                "mesh directory"
            );
        }
        self.problems.store(Arc::new(now));
    }
}

impl Changes {
    fn report(&self, event: notify::Result<notify::Event>) {
        match event {
            // Reading the directory is an event too: it must not wake the reader.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) if !event.need_rescan() => self.reported().add(event.paths),
            Ok(_) | Err(_) => *self.reported() = Reported::everywhere(),
        }
        self.news.notify_one();
    }

    fn take(&self) -> Reported {
        std::mem::take(&mut *self.reported())
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        // Nothing panics while holding it; were it ever poisoned, it is still whole.
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory as it is now, and what is wrong with it.
pub fn load(
    directory: &Path,
    settings: TranslateSettings,
) -> Result<(Snapshot, Vec<Problem>), FileSourceError> {
    let mut state = read(directory, settings)?;
    // What is wrong is known once all is translated.
    let snapshot = state.snapshot();
    Ok((snapshot, state.problems()))
}

fn read(directory: &Path, settings: TranslateSettings) -> Result<DirectoryState, FileSourceError> {
    let mut state = DirectoryState::new(directory, settings);
    match state.reload(&Reported::everywhere()) {
        Ok(_) => Ok(state),
        Err(cause) => Err(FileSourceError::Directory {
            directory: directory.to_owned(),
            cause,
        }),
    }
}

fn watch(
    directory: &Path,
    changed: &Arc<Changes>,
) -> Result<impl Watcher + use<>, FileSourceError> {
    let changed = Arc::clone(changed);
    let failed = |source| FileSourceError::Watch {
        directory: directory.to_owned(),
        source,
    };
    let mut watcher =
        notify::recommended_watcher(move |event| changed.report(event)).map_err(failed)?;
    watcher
        .watch(directory, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

/// `_watcher` is kept because its drop would end the events.
async fn follow(
    mut state: DirectoryState,
    mesh: Arc<Mesh>,
    status: Arc<Status>,
    changed: Arc<Changes>,
    _watcher: impl Watcher,
) {
    let mut unreadable = None;
    let mut scanned = Instant::now();
    loop {
        let rest = RESCAN.saturating_sub(scanned.elapsed());
        if time::timeout(rest, changed.news.notified()).await.is_ok() {
            settle(&changed.news).await;
        }
        let mut reported = changed.take();
        // What it held is not what it holds once it can be read again.
        if scanned.elapsed() >= RESCAN || unreadable.is_some() {
            reported = Reported::everywhere();
            scanned = Instant::now();
        }
        let reading = tokio::task::spawn_blocking(move || {
            let outcome = state.reload(&reported);
            (state, outcome)
        });
        let outcome;
        (state, outcome) = match reading.await {
            Ok(done) => done,
            Err(error) => {
                // Only at shutdown: the reader doesn't panic by itself.
                warn!(%error, "the mesh directory is not followed any more");
                return;
            }
        };
        match outcome {
            Ok(changed) => {
                if changed {
                    mesh.publish(state.snapshot());
                }
                if unreadable.take().is_some() {
                    info!("the mesh directory can be read again");
                    status.show(state.problems());
                }
                status.report(&mut state);
                status.confirm();
            }
            Err(cause) => {
                if unreadable.as_ref() != Some(&cause) {
                    status.unreadable(&state, &cause);
                    unreadable = Some(cause);
                }
            }
        }
    }
}

async fn settle(changed: &Notify) {
    for _ in 0..MAX_DEBOUNCES {
        if time::timeout(DEBOUNCE, changed.notified()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
