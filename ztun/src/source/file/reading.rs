//! One file to objects: what can be read is, and the rest keeps its last good version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::Path,
    sync::Arc,
};

use serde_json::Value;

use super::Problem;
use crate::source::{
    document::{self, Document, SyntaxError},
    kubernetes_objects::{self as objects, Kind, Object, ObjectKey, Read, ReadContext, Rejection},
};

/// Above this a file is not read: a mesh of many thousands of pods fits.
const MAX_FILE: u64 = 64 << 20;
/// Lists within lists.
const MAX_DEPTH: usize = 4;

pub type Objects = BTreeMap<ObjectKey, Arc<Object>>;

/// What a file holds, and what is wrong with it.
#[derive(Debug, Default)]
pub struct FileContents {
    pub objects: Objects,
    pub problems: Vec<Problem>,
    /// How many of the problems are of objects and documents that were not taken.
    pub rejected: u64,
    /// Kinds that aren't known, which are ignored.
    pub unknown: BTreeSet<String>,
}

/// Reads a file; `previous` is what it held when it was last read.
pub(super) fn read(path: &Path, previous: &Objects, context: ReadContext<'_>) -> FileContents {
    match text(path) {
        Ok(text) => read_text(path, &text, previous, context),
        Err(message) => {
            let mut reading = Reading::new(path, previous, context);
            reading.problem(
                String::new(),
                message + ": its last good version stays in force",
            );
            reading.keep_previous();
            reading.contents
        }
    }
}

/// As [`read`] does what the file at `path` holds.
pub fn read_text(
    path: &Path,
    text: &str,
    previous: &Objects,
    context: ReadContext<'_>,
) -> FileContents {
    let mut reading = Reading::new(path, previous, context);
    reading.text(text);
    reading.contents
}

/// A file's text, if it is one and of bearable size.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {} MiB: split it", MAX_FILE >> 20));
    }
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))
}

struct Reading<'a> {
    path: &'a Path,
    previous: &'a Objects,
    context: ReadContext<'a>,
    contents: FileContents,
    /// The line of the last [`Self::nameless`], and how many it has had.
    nameless: (usize, usize),
}

impl<'a> Reading<'a> {
    fn new(path: &'a Path, previous: &'a Objects, context: ReadContext<'a>) -> Self {
        Self {
            path,
            previous,
            context,
            contents: FileContents::default(),
            nameless: (0, 0),
        }
    }

    fn text(&mut self, text: &str) {
        if self
            .path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let whole = Document { line: 1, text };
            return self.document(whole, document::parse_json(text));
        }
        let mut broken = false;
        for document in document::split(text) {
            let value = document::parse_yaml(document);
            broken |= value.is_err();
            self.document(document, value);
        }
        if broken {
            // Whatever the broken document held before is among these.
            self.keep_previous();
        }
    }

    fn document(&mut self, document: Document<'_>, value: Result<Value, SyntaxError>) {
        match value {
            Ok(Value::Null) => {}
            Ok(value) => self.value(value, document.line, 0),
            Err(error) => self.unparseable(document, &error.to_string()),
        }
    }

    fn unparseable(&mut self, document: Document<'_>, error: &str) {
        let message = if self.previous.is_empty() {
            format!("not readable and no earlier version is known: {error}")
        } else {
            format!("not readable, what the file held before stays in force: {error}")
        };
        self.problem(String::new(), message);
        // Policies that the file held stay in force; otherwise one may be among what can't be read.
        let holds_policy = |(key, object): (&ObjectKey, &Arc<Object>)| {
            key.kind.is_policy() && !matches!(**object, Object::Unreadable(_))
        };
        if !self.previous.iter().any(holds_policy)
            && let Some(stand_in) =
                objects::stand_in_for_text(document.text, error, self.context.root_namespace)
        {
            let key = self.nameless(document.line);
            self.contents.objects.insert(key, Arc::new(stand_in));
        }
    }

    fn value(&mut self, mut value: Value, line: usize, depth: usize) {
        if depth < MAX_DEPTH
            && let Some(items) = objects::items(&mut value)
        {
            for item in items {
                self.value(item, line, depth + 1);
            }
            return;
        }
        match objects::read(&value, self.context) {
            Ok(Read::Object(key, object)) => self.object(key, object),
            Ok(Read::NotNeeded) => {}
            Ok(Read::Unknown(kind)) => {
                self.contents.unknown.insert(kind);
            }
            Err(rejection) => self.rejection(rejection, line),
        }
    }

    fn object(&mut self, key: ObjectKey, object: Arc<Object>) {
        if self.contents.objects.contains_key(&key) {
            let message = "is in this file twice: the first one is in force";
            return self.problem(key.to_string(), message.to_owned());
        }
        self.contents.objects.insert(key, object);
    }

    fn rejection(&mut self, rejection: Rejection, line: usize) {
        let last_good = rejection
            .key
            .as_ref()
            .and_then(|key| self.previous.get_key_value(key))
            .filter(|(_, object)| !matches!(***object, Object::Unreadable(_)));
        let message = rejection.message();
        let (outcome, replacement) = match (last_good, rejection.stand_in) {
            (Some((key, object)), _) => (
                ": its last good version stays in force",
                Some((key.clone(), Arc::clone(object))),
            ),
            (None, Some(stand_in)) => {
                let key = rejection.key.unwrap_or_else(|| self.nameless(line));
                (": nobody may enter what it is for", Some((key, stand_in)))
            }
            (None, None) => (": it is left out", None),
        };
        let message = format!("line {line}: {message}{outcome}");
        self.problem(rejection.object, message);
        if let Some((key, object)) = replacement {
            self.contents.objects.entry(key).or_insert(object);
        }
    }

    fn keep_previous(&mut self) {
        for (key, object) in self.previous {
            let objects = &mut self.contents.objects;
            objects
                .entry(key.clone())
                .or_insert_with(|| Arc::clone(object));
        }
    }

    /// A key for a policy whose name can't be told: no object can have it. The same text has the same
    /// when it is read again.
    fn nameless(&mut self, line: usize) -> ObjectKey {
        self.nameless = match self.nameless {
            (last, count) if last == line => (line, count + 1),
            _ => (line, 1),
        };
        let (_, count) = self.nameless;
        ObjectKey {
            namespace: "".into(),
            kind: Kind::AuthorizationPolicy,
            name: format!("{}:{line}:{count}", self.path.display()).into(),
        }
    }

    fn problem(&mut self, object: String, message: String) {
        self.contents.rejected += 1;
        self.contents.problems.push(Problem {
            file: self.path.to_owned(),
            object,
            message,
        });
    }
}
