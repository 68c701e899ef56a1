//! The directory's files and their objects, and which file's version of an object counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Problem,
    reading::{self, FileContents, Objects},
    walk::{self, Stamp},
};
use crate::{
    mesh::Snapshot,
    source::{
        kubernetes_objects::ObjectKey,
        translate::{TranslateSettings, Translator},
    },
};

#[derive(Debug)]
pub(super) struct DirectoryState {
    root: PathBuf,
    files: BTreeMap<Arc<Path>, LoadedFile>,
    /// The files that hold an object; the first one's version counts.
    holders: BTreeMap<ObjectKey, BTreeSet<Arc<Path>>>,
    translator: Translator,
    rejected: u64,
}

#[derive(Debug)]
struct LoadedFile {
    stamp: Stamp,
    contents: FileContents,
}

impl DirectoryState {
    pub(super) fn new(root: &Path, settings: TranslateSettings) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            holders: BTreeMap::new(),
            translator: Translator::new(settings),
            rejected: 0,
        }
    }

    /// Reads what has changed; true if anything has. If the directory can't be read, nothing changes.
    pub(super) fn reload(&mut self) -> Result<bool, String> {
        let found = walk::files(&self.root).map_err(|error| error.to_string())?;
        let mut changed = BTreeSet::new();
        let gone: Vec<Arc<Path>> = self
            .files
            .keys()
            .filter(|path| !found.contains_key(&***path))
            .cloned()
            .collect();
        let mut any = !gone.is_empty();
        for path in gone {
            if let Some(file) = self.files.remove(&path) {
                self.disown(&path, file.contents.objects.keys(), &mut changed);
            }
        }
        for (path, stamp) in found {
            let known = self.files.get(&*path);
            if !known.is_some_and(|known| known.stamp.is_current(stamp)) {
                any |= self.load(path.into(), stamp, &mut changed);
            }
        }
        for key in changed {
            self.update(&key);
        }
        Ok(any)
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        self.translator.snapshot()
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let files = self.files.values();
        let mut problems: Vec<Problem> = files
            .flat_map(|file| file.contents.problems.clone())
            .collect();
        problems.extend(self.unknown_kinds());
        problems.extend(self.duplicates());
        problems.extend(
            self.translator
                .problems()
                .into_iter()
                .map(|problem| Problem {
                    file: self.holder(&problem.key).unwrap_or(&self.root).to_owned(),
                    object: problem.object,
                    message: problem.message,
                }),
        );
        problems
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }

    /// True if the file's contents differ from what was known.
    fn load(&mut self, path: Arc<Path>, stamp: Stamp, changed: &mut BTreeSet<ObjectKey>) -> bool {
        let nothing = Objects::new();
        let old = self.files.remove(&path);
        let previous = old.as_ref().map_or(&nothing, |file| &file.contents.objects);
        let contents = reading::read(&path, previous, self.translator.settings().read_context());
        let new_problems = contents.problems.iter().filter(|problem| {
            !old.as_ref()
                .is_some_and(|old| old.contents.problems.contains(problem))
        });
        self.rejected += new_problems.count() as u64;
        let differs = old.as_ref().is_none_or(|old| {
            old.contents.objects != contents.objects
                || old.contents.problems != contents.problems
                || old.contents.unknown != contents.unknown
        });
        if let Some(old) = old {
            self.disown(&path, old.contents.objects.keys(), changed);
        }
        for key in contents.objects.keys() {
            let holders = self.holders.entry(key.clone()).or_default();
            holders.insert(Arc::clone(&path));
            changed.insert(key.clone());
        }
        self.files.insert(path, LoadedFile { stamp, contents });
        differs
    }

    fn disown<'a>(
        &mut self,
        path: &Path,
        keys: impl Iterator<Item = &'a ObjectKey>,
        changed: &mut BTreeSet<ObjectKey>,
    ) {
        for key in keys {
            if let Some(holders) = self.holders.get_mut(key) {
                holders.remove(path);
            }
            changed.insert(key.clone());
        }
    }

    fn update(&mut self, key: &ObjectKey) {
        let object = self.holder(key).and_then(|path| {
            let file = self.files.get(path)?;
            file.contents.objects.get(key).cloned()
        });
        if let Some(object) = object {
            self.translator.insert(key.clone(), object);
        } else {
            self.holders.remove(key);
            self.translator.remove(key);
        }
    }

    fn holder(&self, key: &ObjectKey) -> Option<&Path> {
        Some(self.holders.get(key)?.first()?)
    }

    /// One for each kind, however many files hold it.
    fn unknown_kinds(&self) -> impl Iterator<Item = Problem> {
        let mut first_file = BTreeMap::new();
        for (path, file) in &self.files {
            for kind in &file.contents.unknown {
                first_file.entry(kind).or_insert(path);
            }
        }
        first_file.into_iter().map(|(kind, path)| Problem {
            file: path.to_path_buf(),
            object: kind.clone(),
            message: "is not a kind that the mesh is made of: objects of it are ignored".to_owned(),
        })
    }

    fn duplicates(&self) -> impl Iterator<Item = Problem> {
        self.holders.iter().flat_map(|(key, files)| {
            let mut files = files.iter();
            let first = files.next();
            files
                .zip(first.into_iter().cycle())
                .map(move |(file, first)| Problem {
                    file: file.to_path_buf(),
                    object: key.to_string(),
                    message: format!("is also in {}, whose version is in force", first.display()),
                })
        })
    }
}
