//! The folder that holds what set-up made: shared by clones, untouched by `cargo clean`.
//!
//! An entry is complete when it has a stamp, which is written last and in one step. Whatever has
//! none is the rest of a killed run and is made again.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::process::say;

pub struct Cache {
    root: PathBuf,
    _lock: Option<Flock<File>>,
}

impl Cache {
    /// The part of the cache that is called so.
    pub fn locate(part: &str) -> Result<Self> {
        let root = root(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))
            .context("no place for what is set up: set HOME or XDG_CACHE_HOME")?
            .join(part);
        Ok(Self { root, _lock: None })
    }

    /// Keeps other set-ups out until the answer is dropped.
    pub fn lock(self) -> Result<Self> {
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot create {}", self.root.display()))?;
        let path = self.root.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, _)) => {
                say("waiting for another set-up to finish");
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| errno)
                    .with_context(|| format!("cannot lock {}", path.display()))?
            }
        };
        Ok(Self {
            root: self.root,
            _lock: Some(lock),
        })
    }

    pub fn entry(&self, name: &str) -> Entry {
        Entry {
            dir: self.root.join(name),
        }
    }

    /// A cache of a test's own.
    #[cfg(test)]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            _lock: None,
        }
    }
}

pub struct Entry {
    dir: PathBuf,
}

impl Entry {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a run that used the same recipe came to its end.
    pub fn is_complete(&self, recipe: &str) -> bool {
        fs::read_to_string(self.stamp()).is_ok_and(|stamp| stamp == recipe)
    }

    /// Removes what is there, makes the entry anew, and stamps it.
    pub fn make(&self, recipe: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        // The stamp goes first, so that a run killed while removing leaves no stamped ruin.
        remove(fs::remove_file(self.stamp()), &self.stamp())?;
        remove(fs::remove_dir_all(&self.dir), &self.dir)?;
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create {}", self.dir.display()))?;
        make(&self.dir)?;

        let partial = self.dir.join("stamp.partial");
        fs::write(&partial, recipe)
            .and_then(|()| fs::rename(&partial, self.stamp()))
            .with_context(|| format!("cannot write {}", self.stamp().display()))
    }

    fn stamp(&self) -> PathBuf {
        self.dir.join("stamp")
    }
}

fn remove(outcome: std::io::Result<()>, path: &Path) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The XDG base directory specification: a relative path is to be ignored.
fn root(xdg_cache_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    xdg_cache_home
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|cache| cache.join("ztun"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_cache_is_where_xdg_puts_it() {
        let place =
            |xdg: Option<&str>, home: Option<&str>| root(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(place(Some("/c"), Some("/h")), Some("/c/ztun".into()));
        assert_eq!(place(Some("c"), Some("/h")), Some("/h/.cache/ztun".into()));
        assert_eq!(place(None, Some("/h")), Some("/h/.cache/ztun".into()));
        assert_eq!(place(None, None), None);
    }

    #[test]
    fn an_entry_is_complete_only_when_its_recipe_came_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry {
            dir: dir.path().join("entry"),
        };
        assert!(!entry.is_complete("v1"));

        entry
            .make("v1", |dir| {
                fs::write(dir.join("half"), "")?;
                bail!("killed here")
            })
            .expect_err("the recipe failed");
        assert!(
            !entry.is_complete("v1"),
            "a recipe that failed leaves no stamp"
        );

        entry.make("v1", |_| Ok(())).unwrap();
        assert!(entry.is_complete("v1"));
        assert!(
            !entry.is_complete("v2"),
            "another recipe's entry is not complete"
        );
        assert!(
            !entry.dir().join("half").exists(),
            "the failed run's rest is gone"
        );
    }

    #[test]
    fn making_again_invalidates_the_entry_first() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry {
            dir: dir.path().join("entry"),
        };
        entry.make("v1", |_| Ok(())).unwrap();
        entry
            .make("v1", |_| bail!("killed here"))
            .expect_err("the recipe failed");
        assert!(!entry.is_complete("v1"));
    }
}
