//! A directory's objects, each with its place.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{
    finding::{Check, Finding, Severity},
    inventory::Inventory,
};
use crate::source::{
    document::{self, Document},
    field::FieldPath,
    file,
    kubernetes_objects::{self as objects, Object, ObjectKey, Read, ReadContext},
    locate,
};

/// Lists within lists, as the sources read them.
const MAX_DEPTH: usize = 4;
/// Groups whose kinds became those of `security.istio.io`.
const LEGACY_GROUPS: [&str; 2] = ["authentication.istio.io/", "rbac.istio.io/"];

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) objects: BTreeMap<ObjectKey, (Arc<Object>, Place)>,
    pub(super) inventory: Inventory,
    /// What can't be taken as it is written.
    pub(super) findings: Vec<Finding>,
}

/// Where an object stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<Path>,
    text: Arc<str>,
    /// The line that the text starts on.
    line: usize,
    /// The object's path in the text, if it is of a list.
    path: FieldPath,
}

impl Directory {
    pub(super) fn read(root: &Path, context: ReadContext<'_>) -> io::Result<Self> {
        let mut directory = Self::default();
        for path in file::manifests(root)? {
            directory.file(path, context);
        }
        let objects = directory.objects.iter();
        directory
            .inventory
            .add_objects(objects.map(|(key, (object, _))| (key, &**object)));
        Ok(directory)
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = (&ObjectKey, &Object, &Place)> {
        let objects = self.objects.iter();
        objects
            .filter(|(key, _)| key.kind.is_policy())
            .map(|(key, (object, place))| (key, &**object, place))
    }

    fn file(&mut self, path: PathBuf, context: ReadContext<'_>) {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let file: Arc<Path> = path.into();
        let place = |document: Document<'_>| Place {
            file: Arc::clone(&file),
            text: document.text.into(),
            line: document.line,
            path: FieldPath::default(),
        };
        let text = match file::text(&file) {
            Ok(text) => text,
            Err(message) => {
                let nowhere = place(Document { line: 1, text: "" });
                return self.unreadable(&nowhere, 1, message);
            }
        };
        let whole = Document {
            line: 1,
            text: &text,
        };
        let documents = if is_json {
            vec![whole]
        } else {
            document::split(&text)
        };
        for document in documents {
            let value = if is_json {
                document::parse_json(document.text)
            } else {
                document::parse_yaml(document)
            };
            let place = place(document);
            match value {
                Ok(Value::Null) => {}
                Ok(value) => self.value(value, place, 0, context),
                Err(error) => self.unreadable(&place, error.line, error.to_string()),
            }
        }
    }

    fn value(&mut self, mut value: Value, place: Place, depth: usize, context: ReadContext<'_>) {
        if depth < MAX_DEPTH
            && let Some(items) = objects::items(&mut value)
        {
            for (index, item) in items.into_iter().enumerate() {
                let place = Place {
                    path: place.path.field("items").index(index),
                    ..place.clone()
                };
                self.value(item, place, depth + 1, context);
            }
            return;
        }
        self.inventory.add_value(&value);
        match objects::read(&value, context) {
            Ok(Read::Object(key, object)) => self.object(key, object, place),
            Ok(Read::NotNeeded) => {}
            Ok(Read::Unknown(kind)) => self.unknown(&kind, &value, &place),
            Err(rejection) => {
                let findings = rejection.problems.iter().map(|problem| {
                    place.finding(
                        Severity::Error,
                        Check::Rejected,
                        &rejection.object,
                        &problem.path,
                        problem.message.clone(),
                    )
                });
                self.findings.extend(findings);
            }
        }
    }

    fn object(&mut self, key: ObjectKey, object: Arc<Object>, place: Place) {
        match self.objects.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert((object, place));
            }
            Entry::Occupied(first) => {
                let (_, in_force) = first.get();
                let message = format!(
                    "is also in {}:{}, whose version is in force",
                    in_force.file.display(),
                    in_force.line_of(&FieldPath::default())
                );
                let key = first.key().to_string();
                self.findings.push(place.finding(
                    Severity::Error,
                    Check::Duplicate,
                    &key,
                    &FieldPath::default(),
                    message,
                ));
            }
        }
    }

    fn unknown(&mut self, kind: &str, value: &Value, place: &Place) {
        if !LEGACY_GROUPS.iter().any(|group| kind.starts_with(group)) {
            return;
        }
        let name = value.pointer("/metadata/name").and_then(Value::as_str);
        let object = format!("{kind} {}", name.unwrap_or_default());
        self.findings.push(place.finding(
            Severity::Warning,
            Check::Legacy,
            object.trim_end(),
            &FieldPath::default(),
            "has no effect any more: `ztun policy migrate` translates it".to_owned(),
        ));
    }

    fn unreadable(&mut self, place: &Place, line: usize, message: String) {
        let whole = FieldPath::default();
        let finding = place.finding(Severity::Error, Check::Unreadable, "", &whole, message);
        self.findings.push(Finding { line, ..finding });
    }
}

impl Place {
    pub(super) fn finding(
        &self,
        severity: Severity,
        check: Check,
        object: &str,
        field: &FieldPath,
        message: String,
    ) -> Finding {
        Finding {
            file: self.file.to_path_buf(),
            line: self.line_of(field),
            severity,
            check,
            object: object.to_owned(),
            field: field.to_string(),
            message,
        }
    }

    fn line_of(&self, field: &FieldPath) -> usize {
        let document = Document {
            line: self.line,
            text: &self.text,
        };
        locate::line(document, &self.path.join(field)).unwrap_or(self.line)
    }
}
