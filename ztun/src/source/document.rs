//! YAML and JSON text to values, in bounded memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// One document of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Where it starts, counted from 1.
    pub line: usize,
    pub text: &'a str,
}

/// Cuts a text at its `---` lines, so that a broken document leaves the others readable.
///
/// YAML allows no other meaning of `---` at the start of a line (YAML 1.2, section 9.1.2).
pub fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let separates = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if separates && offset > start {
            documents.push(Document {
                line: start_line,
                text: &text[start..offset],
            });
            (start, start_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push(Document {
        line: start_line,
        text: &text[start..],
    });
    documents
}

/// The value of one YAML document; `Null` if it holds nothing. An error names the line in the file.
pub fn parse_yaml(document: Document<'_>) -> Result<Value, String> {
    let parse = |text: &str| bounded(serde_norway::Deserializer::from_str(text), text.len());
    parse(document.text).map_err(|error| {
        // The parser counts lines from where it starts: for the message, start where the file does.
        let padded = "\n".repeat(document.line - 1) + document.text;
        parse(&padded).err().unwrap_or(error).to_string()
    })
}

pub fn parse_json(text: &str) -> Result<Value, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = bounded(&mut json, text.len()).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Without aliases a document has no more nodes and text than bytes (an escape may double some):
/// what goes beyond was multiplied by aliases, as in a "billion laughs".
fn bounded<'de, D: Deserializer<'de>>(deserializer: D, length: usize) -> Result<Value, D::Error> {
    let mut budget = 2 * length + 1024;
    Bounded(&mut budget).deserialize(deserializer)
}

struct Bounded<'a>(&'a mut usize);

impl Bounded<'_> {
    fn spend<E: Error>(&mut self, amount: usize) -> Result<(), E> {
        *self.0 = self
            .0
            .checked_sub(amount)
            .ok_or_else(|| E::custom("aliases expand it beyond any use: write the values out"))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.spend(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML or JSON without tags")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Bounded(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Bounded(self.0))? {
            let key = match key {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                Value::Bool(key) => key.to_string(),
                other => return Err(A::Error::custom(format!("`{other}` is not a field's name"))),
            };
            let value = entries.next_value_seed(Bounded(self.0))?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is there twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
