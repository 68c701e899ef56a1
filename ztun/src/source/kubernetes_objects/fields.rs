//! Takes an object apart field by field and collects all that is wrong with it, each with its path.
//!
//! A field that isn't known is an error: what it would have restricted would go unrestricted.

use serde_json::{Map, Value};

use crate::source::field::{FieldPath, FieldProblem};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) path: FieldPath,
    pub(super) value: &'a Value,
}

/// An object's fields. One that is `null` counts as absent.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    path: FieldPath,
    map: &'a Map<String, Value>,
}

#[derive(Debug, Default)]
pub(super) struct Problems(Vec<FieldProblem>);

impl Problems {
    pub(super) fn add(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.0.push(FieldProblem::new(path.clone(), message));
    }

    pub(super) fn extend(&mut self, problems: Vec<FieldProblem>) {
        self.0.extend(problems);
    }

    /// `value`, if nothing is wrong.
    pub(super) fn or<T>(self, value: T) -> Result<T, Vec<FieldProblem>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            path: FieldPath::default(),
            value,
        }
    }

    /// Its fields, which may be these; `None` if it isn't an object.
    pub(super) fn fields(&self, allowed: &[&str], problems: &mut Problems) -> Option<Fields<'a>> {
        let fields = self.entries(&format!("an object with {}", any_of(allowed)), problems)?;
        for name in fields.names().filter(|name| !allowed.contains(name)) {
            problems.add(&self.path.field(name), unknown_field(name, allowed));
        }
        Some(fields)
    }

    /// Its fields, whatever they are called; `None` if it isn't an object.
    pub(super) fn entries(&self, expected: &str, problems: &mut Problems) -> Option<Fields<'a>> {
        let Value::Object(map) = self.value else {
            problems.add(&self.path, unexpected(expected, self.value));
            return None;
        };
        Some(Fields {
            path: self.path.clone(),
            map,
        })
    }

    pub(super) fn items(&self, problems: &mut Problems) -> Vec<Self> {
        let Value::Array(items) = self.value else {
            let hint = match self.value {
                Value::Object(_) => ": start it with `- `".to_owned(),
                Value::String(text) => format!(": write [\"{text}\"]"),
                _ => String::new(),
            };
            problems.add(&self.path, unexpected("a list", self.value) + &hint);
            return Vec::new();
        };
        let nodes = items.iter().enumerate().map(|(index, value)| Self {
            path: self.path.index(index),
            value,
        });
        nodes.collect()
    }

    /// Text that isn't empty.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'a str> {
        match self.value {
            Value::String(text) if text.is_empty() => {
                problems.add(&self.path, "must not be empty");
                None
            }
            Value::String(text) => Some(text),
            Value::Number(_) | Value::Bool(_) => {
                let message = format!(
                    "expected text, found {}: put it in quotes: \"{}\"",
                    kind(self.value),
                    self.value
                );
                problems.add(&self.path, message);
                None
            }
            other => {
                problems.add(&self.path, unexpected("text", other));
                None
            }
        }
    }

    /// What the text means, if it has a meaning.
    pub(super) fn parsed<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
        problems: &mut Problems,
    ) -> Option<T> {
        match parse(self.text(problems)?) {
            Ok(value) => Some(value),
            Err(message) => {
                problems.add(&self.path, message);
                None
            }
        }
    }

    /// What every text of a list means. An empty list is an error: it reads as if it let nobody
    /// through, and restricts nothing.
    pub(super) fn list<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
        problems: &mut Problems,
    ) -> Vec<T> {
        if self.value.as_array().is_some_and(Vec::is_empty) {
            let message =
                "an empty list restricts nothing: name at least one value, or leave the field out";
            problems.add(&self.path, message);
        }
        let items = self.items(problems).into_iter();
        items
            .filter_map(|item| item.parsed(&parse, problems))
            .collect()
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        let known = words.iter().find(|(word, _)| *word == text);
        if known.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let meant = names.iter().find(|word| word.eq_ignore_ascii_case(text));
            let hint = meant.map_or_else(String::new, |word| format!(": write {word}"));
            let message = format!("`{text}` is not known, expected {}{hint}", any_of(&names));
            problems.add(&self.path, message);
        }
        known.map(|(_, value)| *value)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(Node {
            path: self.path.field(name),
            value,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.map.keys().map(String::as_str)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.map.iter().map(|(name, value)| {
            let node = Node {
                path: self.path.field(name),
                value,
            };
            (name.as_str(), node)
        })
    }

    pub(super) fn path(&self) -> &FieldPath {
        &self.path
    }
}

pub(super) fn unexpected(expected: &str, found: &Value) -> String {
    format!("expected {expected}, found {}", kind(found))
}

/// `a, b or c`.
pub(super) fn any_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} or {last}", names.join(", ")),
    }
}

fn unknown_field(name: &str, allowed: &[&str]) -> String {
    let plain = |name: &str| {
        let name = name.replace(['_', '-'], "").to_ascii_lowercase();
        name.trim_end_matches('s').to_owned()
    };
    let meant = allowed.iter().find(|other| plain(other) == plain(name));
    match (meant, allowed) {
        (Some(meant), _) => format!("unknown field: write `{meant}`"),
        (None, [only]) => format!("unknown field: only `{only}` may be here, and fields within it"),
        (None, _) => format!("unknown field, expected {}", any_of(allowed)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
