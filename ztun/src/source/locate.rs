//! The line of a field in the text that its object was read from.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    document::Document,
    field::{FieldPath, Segment},
};

/// Each search reads the document again: in a larger one only its start is told.
const MAX_LENGTH: usize = 1 << 20;

/// The line in the file, counted from 1, of the field at `path`, or of the innermost field around
/// it that is there.
pub fn line(document: Document<'_>, path: &FieldPath) -> Option<usize> {
    if document.text.len() > MAX_LENGTH {
        return Some(document.line);
    }
    let segments = path.segments();
    (0..=segments.len())
        .rev()
        .find_map(|depth| exact_line(document, segments.get(..depth)?))
}

/// The parser tells lines only of errors, so one is raised where the field is.
fn exact_line(document: Document<'_>, path: &[Segment]) -> Option<usize> {
    let deserializer = serde_norway::Deserializer::from_str(document.text);
    let here = Search(path).deserialize(deserializer).err()?;
    // Another error than ours means that the document can't be read.
    if !here.to_string().contains(HERE) {
        return None;
    }
    Some(document.line + here.location()?.line() - 1)
}

const HERE: &str = "the field is here";

#[derive(Clone, Copy)]
struct Search<'a>(&'a [Segment]);

/// A field's line is that of its name.
struct Name<'a> {
    wanted: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field on the way")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.arrived()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.arrived()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((segment, rest)) = self.0.split_first() else {
            return self.arrived();
        };
        if let Segment::Index(index) = segment {
            for _ in 0..*index {
                if items.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
            }
            items.next_element_seed(Search(rest))?;
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((segment, rest)) = self.0.split_first() else {
            return self.arrived();
        };
        let wanted = match segment {
            Segment::Field(name) => name.as_str(),
            Segment::Index(_) => "",
        };
        let name = Name {
            wanted,
            is_last: rest.is_empty(),
        };
        while let Some(found) = entries.next_key_seed(&name)? {
            if found {
                entries.next_value_seed(Search(rest))?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl Search<'_> {
    fn arrived<E: Error>(self) -> Result<(), E> {
        if self.0.is_empty() {
            return Err(E::custom(HERE));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &Name<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        // Unlike the others, this method tells where an error was raised.
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for &Name<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_bool<E: Error>(self, name: bool) -> Result<bool, E> {
        self.visit_str(&name.to_string())
    }

    fn visit_i64<E: Error>(self, name: i64) -> Result<bool, E> {
        self.visit_str(&name.to_string())
    }

    fn visit_u64<E: Error>(self, name: u64) -> Result<bool, E> {
        self.visit_str(&name.to_string())
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        match name == self.wanted {
            true if self.is_last => Err(E::custom(HERE)),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::source::document;

    const TEXT: &str = "\
# policies
---
kind: AuthorizationPolicy
spec:
  action: DENY # why
  rules:
  - to: [{operation: {ports: [\"80\",
      \"0\"]}}]
  - from:
    - source:
        principals:
        - a
        - |
          b
        80: x
";

    fn line_of(path: &FieldPath) -> usize {
        line(document::split(TEXT)[1], path).unwrap()
    }

    #[test]
    fn a_field_s_line_is_that_of_its_name_or_of_its_value_in_a_list() {
        let spec = FieldPath::of("spec");
        let rules = spec.field("rules");
        let port = |index| {
            let to = rules.index(0).field("to").index(0);
            to.field("operation").field("ports").index(index)
        };
        let source = rules.index(1).field("from").index(0).field("source");
        for (path, line) in [
            (FieldPath::default(), 3),
            (spec.clone(), 4),
            (spec.field("action"), 5),
            (rules.clone(), 6),
            (rules.index(0), 7),
            (port(0), 7),
            (port(1), 8),
            (source.clone(), 10),
            (source.field("principals").index(1), 13),
            (source.field("80"), 15),
        ] {
            assert_eq!(line_of(&path), line, "{path}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_has_the_line_of_what_is_around_it() {
        let rules = FieldPath::of("spec.rules");
        assert_eq!(line_of(&rules.index(0).field("when")), 7);
        assert_eq!(line_of(&rules.index(9)), 6);
        assert_eq!(line_of(&FieldPath::of("spec.action.x.y")), 5);
        assert_eq!(line_of(&FieldPath::of("status")), 3);
    }
}
