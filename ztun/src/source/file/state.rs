//! The directory's files and their objects, and which file's version of an object counts.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Problem,
    reading::{self, FileContents, Objects},
    walk::{self, Stamp, Standing},
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
    directories: HashSet<PathBuf>,
    /// As [`walk::Found`].
    has_links: bool,
    /// The files that hold an object; the first one's version counts.
    holders: BTreeMap<ObjectKey, BTreeSet<Arc<Path>>>,
    /// Objects that several files hold.
    shared: BTreeSet<ObjectKey>,
    /// Files with something to tell of.
    troubled: BTreeSet<Arc<Path>>,
    /// Whether what is told of files has changed since it was last asked for.
    problems_changed: bool,
    translator: Translator,
    rejected: u64,
}

/// Where something may have changed.
#[derive(Debug, Default)]
pub(super) struct Reported {
    everywhere: bool,
    paths: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct LoadedFile {
    stamp: Stamp,
    contents: FileContents,
}

impl Reported {
    /// More than these are not told apart.
    const MAX_PATHS: usize = 1_000;

    pub(super) fn everywhere() -> Self {
        Self {
            everywhere: true,
            paths: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, paths: Vec<PathBuf>) {
        self.paths.extend(paths);
        if self.paths.len() > Self::MAX_PATHS {
            *self = Self::everywhere();
        }
    }
}

/// Why a directory counts as one that can't be read.
const NO_FILES: &str = "it holds no YAML or JSON file any more: is it mounted and filled? If the mesh is to be \
     empty, leave an empty file in it, such as empty.yaml";

impl DirectoryState {
    pub(super) fn new(root: &Path, settings: TranslateSettings) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            directories: HashSet::new(),
            has_links: false,
            holders: BTreeMap::new(),
            shared: BTreeSet::new(),
            troubled: BTreeSet::new(),
            problems_changed: true,
            translator: Translator::new(settings),
            rejected: 0,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what has changed where something was reported; true if anything has. If the directory
    /// can't be read, or holds no file any more, nothing changes.
    pub(super) fn reload(&mut self, reported: &Reported) -> Result<bool, String> {
        let mut changed = BTreeSet::new();
        let any = match self.single_files(reported) {
            Some(files) if self.would_be_empty(&files) => return Err(NO_FILES.to_owned()),
            Some(files) => self.reload_files(files, &mut changed),
            None => self.reload_all(&mut changed)?,
        };
        for key in changed {
            self.update(&key);
        }
        Ok(any)
    }

    /// The files that reports concern, as they are now; `None` where they may concern others.
    fn single_files<'a>(&self, reported: &'a Reported) -> Option<Vec<(&'a Path, Standing)>> {
        if reported.everywhere || self.has_links {
            return None;
        }
        let mut files = Vec::new();
        for path in &reported.paths {
            let parent = path.parent()?;
            self.directories.get(parent)?;
            let had_files = || {
                let after = (Bound::Excluded(path.as_path()), Bound::Unbounded);
                let next = self.files.range::<Path, _>(after).next();
                next.is_some_and(|(next, _)| next.starts_with(path))
            };
            match walk::look_at(path) {
                Standing::Other if walk::is_foreign(path) => {}
                Standing::Other => return None,
                Standing::Nothing if had_files() => return None,
                standing => files.push((path.as_path(), standing)),
            }
        }
        Some(files)
    }

    fn would_be_empty(&self, files: &[(&Path, Standing)]) -> bool {
        let is_file = |(_, standing): &(&Path, Standing)| matches!(standing, Standing::File(_));
        if self.files.is_empty() || files.iter().any(is_file) {
            return false;
        }
        let gone = files
            .iter()
            .filter(|(path, _)| self.files.contains_key(*path));
        gone.count() == self.files.len()
    }

    fn reload_files(
        &mut self,
        files: Vec<(&Path, Standing)>,
        changed: &mut BTreeSet<ObjectKey>,
    ) -> bool {
        let mut any = false;
        for (path, standing) in files {
            any |= match standing {
                Standing::File(stamp) => self.load_if_changed(path, stamp, changed),
                Standing::Nothing | Standing::Other => self.unload(path, changed),
            };
        }
        any
    }

    fn reload_all(&mut self, changed: &mut BTreeSet<ObjectKey>) -> Result<bool, String> {
        let found = walk::files(&self.root).map_err(|error| error.to_string())?;
        if found.files.is_empty() && !self.files.is_empty() {
            return Err(NO_FILES.to_owned());
        }
        self.directories = found.directories;
        self.has_links = found.has_links;
        let gone: Vec<Arc<Path>> = self
            .files
            .keys()
            .filter(|path| !found.files.contains_key(&***path))
            .cloned()
            .collect();
        let mut any = false;
        for path in gone {
            any |= self.unload(&path, changed);
        }
        for (path, stamp) in found.files {
            any |= self.load_if_changed(&path, stamp, changed);
        }
        Ok(any)
    }

    fn load_if_changed(
        &mut self,
        path: &Path,
        stamp: Stamp,
        changed: &mut BTreeSet<ObjectKey>,
    ) -> bool {
        let known = self.files.get(path);
        let is_current = known.is_some_and(|known| known.stamp.is_current(stamp));
        !is_current && self.load(path.into(), stamp, changed)
    }

    /// True if the file was known.
    fn unload(&mut self, path: &Path, changed: &mut BTreeSet<ObjectKey>) -> bool {
        let Some(file) = self.files.remove(path) else {
            return false;
        };
        self.disown(path, file.contents.objects.keys(), changed);
        self.problems_changed |= self.troubled.remove(path);
        true
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        self.translator.snapshot()
    }

    /// What is wrong, unless that is the same as when it was last asked for.
    pub(super) fn changed_problems(&mut self) -> Option<Vec<Problem>> {
        let of_files = std::mem::take(&mut self.problems_changed);
        let of_objects = self.translator.take_problems_changed();
        (of_files || of_objects).then(|| self.problems())
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .troubled()
            .flat_map(|(_, file)| file.contents.problems.clone())
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
            if holders.len() > 1 {
                self.shared.insert(key.clone());
                self.problems_changed = true;
            }
            changed.insert(key.clone());
        }
        let has_trouble = !contents.problems.is_empty() || !contents.unknown.is_empty();
        let had_trouble = self.troubled.remove(&path);
        if has_trouble {
            self.troubled.insert(Arc::clone(&path));
        }
        self.problems_changed |= had_trouble || has_trouble;
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
                if holders.len() < 2 {
                    self.problems_changed |= self.shared.remove(key);
                }
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

    fn troubled(&self) -> impl Iterator<Item = (&Arc<Path>, &LoadedFile)> {
        let files = self.troubled.iter();
        files.filter_map(|path| self.files.get_key_value(path))
    }

    /// One for each kind, however many files hold it.
    fn unknown_kinds(&self) -> impl Iterator<Item = Problem> {
        let mut first_file = BTreeMap::new();
        for (path, file) in self.troubled() {
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
        let shared = self.shared.iter();
        let shared = shared.filter_map(|key| self.holders.get_key_value(key));
        shared.flat_map(|(key, files)| {
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
