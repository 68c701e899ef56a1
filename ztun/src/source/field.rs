//! Where in an object something is wrong.

use std::fmt;

/// From the object's root, such as `spec.rules[0].from[1].source.ipBlocks[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    Field(String),
    Index(usize),
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// Empty where the object as a whole is meant.
    pub path: FieldPath,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl FieldPath {
    /// Of fields only, such as `metadata.namespace`.
    pub fn of(fields: &str) -> Self {
        fields
            .split('.')
            .fold(Self::default(), |path, name| path.field(name))
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Segment::Field(name.to_owned()))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    #[must_use]
    pub fn join(&self, rest: &Self) -> Self {
        let segments = self.0.iter().chain(&rest.0);
        Self(segments.cloned().collect())
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.0.push(segment);
        path
    }
}

impl FieldProblem {
    pub fn new(path: FieldPath, message: impl Into<String>) -> Self {
        Self {
            path,
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Field(name) if name.contains(['.', '/', '[', ' ']) => {
                    write!(f, "[{name}]")?;
                }
                Segment::Field(name) if position == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl From<&serde_path_to_error::Path> for FieldPath {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment as Serde;
        let segments = path.iter().filter_map(|segment| match segment {
            Serde::Seq { index } => Some(Segment::Index(*index)),
            Serde::Map { key } => Some(Segment::Field(key.clone())),
            Serde::Enum { variant } => Some(Segment::Field(variant.clone())),
            Serde::Unknown => None,
        });
        Self(segments.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_users_write_it() {
        let ports = FieldPath::of("spec.rules").index(0).field("ports").index(2);
        assert_eq!(ports.to_string(), "spec.rules[0].ports[2]");
        let annotation = FieldPath::of("metadata.annotations").field("istio.io/dry-run");
        assert_eq!(
            annotation.to_string(),
            "metadata.annotations[istio.io/dry-run]"
        );
        assert_eq!(
            FieldProblem::new(FieldPath::default(), "no").to_string(),
            "no"
        );
        assert_eq!(
            FieldProblem::new(ports, "no").to_string(),
            "spec.rules[0].ports[2]: no"
        );
    }
}
