//! Keeps trust in step with its files.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher};
use tokio::{sync::Notify, task::JoinHandle, time};

use super::{
    Trust,
    files::{TrustFileError, TrustFiles, TrustProblem, TrustSettings},
};

/// Files are read when nothing has changed for this long: one that is being written isn't.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Directories that never rest are read after so many debounces all the same.
const MAX_DEBOUNCES: usize = 10;
/// For what the kernel doesn't report: files behind symbolic links, network file systems, overflows.
const RESCAN: Duration = Duration::from_secs(10);

/// Follows the files until it is dropped.
#[derive(Debug)]
pub struct TrustFollower {
    task: JoinHandle<()>,
}

impl Trust {
    /// Reads the files and goes on in a task of the current Tokio runtime.
    pub fn follow(
        self: &Arc<Self>,
        settings: TrustSettings,
    ) -> Result<TrustFollower, TrustFileError> {
        let changed = Arc::new(Notify::new());
        // Watched before they are read: nothing falls in between.
        let watcher = watch(&settings, &changed)?;
        let mut files = TrustFiles::new(settings, self.domains().clone());
        files.read();
        files.require()?;
        self.take(&files);
        let task = tokio::spawn(follow(Arc::clone(self), files, changed, watcher));
        Ok(TrustFollower { task })
    }

    /// Each problem is logged once, when it first appears.
    fn take(&self, files: &TrustFiles) {
        let problems = files.problems();
        let before = self.problems.load();
        for TrustProblem { file, message } in &problems {
            if !before
                .iter()
                .any(|it| it.file == *file && it.message == *message)
            {
                tracing::warn!(file = %file.display(), problem = message, "trust file");
            }
        }
        self.set_files(files.contents(), problems);
    }
}

impl Drop for TrustFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The directories that the files are in: files are mostly replaced, by a name or a link.
fn watch(
    settings: &TrustSettings,
    changed: &Arc<Notify>,
) -> Result<impl Watcher + use<>, TrustFileError> {
    let mut directories: BTreeMap<PathBuf, &'static str> = BTreeMap::new();
    let files = [
        ("caDirectory", &settings.ca_roots),
        ("trust.rootsFile", &settings.roots),
        ("trust.crlFile", &settings.crls),
    ];
    for (setting, file) in files {
        if let Some(directory) = file.as_deref().and_then(|file| file.parent()) {
            directories.insert(directory.to_owned(), setting);
        }
    }
    if let Some(directory) = &settings.bundles {
        directories.insert(directory.clone(), "trust.bundleDirectory");
    }
    let first = directories.iter().next();
    let (directory, setting) =
        first.map_or_else(Default::default, |(path, name)| (path.clone(), *name));
    let changed = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a directory is an event too: it must not wake the reader.
        if event.map_or(true, |event| !event.kind.is_access()) {
            changed.notify_one();
        }
    });
    let mut watcher = watcher.map_err(|source| TrustFileError::Watch {
        setting,
        directory,
        source,
    })?;
    for (directory, setting) in directories {
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .map_err(|source| TrustFileError::Watch {
                setting,
                directory,
                source,
            })?;
    }
    Ok(watcher)
}

/// `_watcher` is kept because its drop would end the events.
async fn follow(
    trust: Arc<Trust>,
    mut files: TrustFiles,
    changed: Arc<Notify>,
    _watcher: impl Watcher,
) {
    loop {
        // Either way the files are looked at: the timeout only says that nothing was reported.
        if time::timeout(RESCAN, changed.notified()).await.is_ok() {
            settle(&changed).await;
        }
        let reading = tokio::task::spawn_blocking(move || {
            files.read();
            files
        });
        files = match reading.await {
            Ok(files) => files,
            Err(error) => {
                // Only at shutdown: the reader doesn't panic by itself.
                tracing::warn!(%error, "the files of trust are not followed any more");
                return;
            }
        };
        trust.take(&files);
    }
}

async fn settle(changed: &Notify) {
    for _ in 0..MAX_DEBOUNCES {
        if time::timeout(DEBOUNCE, changed.notified()).await.is_err() {
            return;
        }
    }
}
