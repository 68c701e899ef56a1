//! What a migration left out, what it changed, and what is worth a look.

use std::fmt;

use serde::Serialize;

use super::Origin;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is not in the policies.
    LeftOut,
    /// It is in the policies and means something else than before.
    Changed,
    /// It means what it meant.
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub outcome: Outcome,
    /// `None` for what is true of the migration as a whole.
    #[serde(flatten)]
    pub origin: Option<Origin>,
    /// Such as `spec.rules[0].methods`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Report(Vec<Entry>);

impl Report {
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Whether the policies say all that the legacy objects said, and nothing else.
    pub fn is_faithful(&self) -> bool {
        self.0.iter().all(|entry| entry.outcome == Outcome::Note)
    }

    pub(super) fn left_out(
        &mut self,
        origin: &Origin,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.push(Outcome::LeftOut, Some(origin), field.into(), message.into());
    }

    pub(super) fn changed(
        &mut self,
        origin: &Origin,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.push(Outcome::Changed, Some(origin), field.into(), message.into());
    }

    pub(super) fn note(
        &mut self,
        origin: &Origin,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.push(Outcome::Note, Some(origin), field.into(), message.into());
    }

    /// Said once, however often it applies.
    pub(super) fn overall(&mut self, outcome: Outcome, message: &str) {
        self.push(outcome, None, String::new(), message.to_owned());
    }

    /// In the order in which a reader meets the objects; what is true of the whole comes last.
    pub(super) fn sort(&mut self) {
        self.0
            .sort_by(|a, b| (a.origin.is_none(), &a.origin).cmp(&(b.origin.is_none(), &b.origin)));
    }

    /// A role that several bindings use is not reported several times.
    fn push(&mut self, outcome: Outcome, origin: Option<&Origin>, field: String, message: String) {
        let entry = Entry {
            outcome,
            origin: origin.cloned(),
            field,
            message,
        };
        if !self.0.contains(&entry) {
            self.0.push(entry);
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeftOut => "left out",
            Self::Changed => "changed",
            Self::Note => "note",
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.outcome)?;
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
