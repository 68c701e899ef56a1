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

/// Why a text has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// In the file, counted from 1.
    pub line: usize,
    message: String,
}

/// The value of one YAML document; `Null` if it holds nothing. An error names the line in the file.
pub fn parse_yaml(document: Document<'_>) -> Result<Value, SyntaxError> {
    let parse = |text: &str| bounded(serde_norway::Deserializer::from_str(text), text.len());
    parse(document.text).map_err(|error| {
        // The parser counts lines from where it starts: for the message, start where the file does.
        let padded = "\n".repeat(document.line - 1) + document.text;
        let error = parse(&padded).err().unwrap_or(error);
        SyntaxError {
            line: error.location().map_or(document.line, |at| at.line()),
            message: error.to_string(),
        }
    })
}

pub fn parse_json(text: &str) -> Result<Value, SyntaxError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = bounded(&mut json, text.len());
    let whole = value.and_then(|value| json.end().map(|()| value));
    whole.map_err(|error| SyntaxError {
        line: error.line().max(1),
        message: error.to_string(),
    })
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

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let documents = split(text)
            .into_iter()
            .map(|document| parse_yaml(document).unwrap());
        documents.filter(|value| !value.is_null()).collect()
    }

    fn whole(text: &str) -> Result<Value, String> {
        parse_yaml(Document { line: 1, text }).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_holds_several_documents() {
        for text in [
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\nb: 2",
            "# comment\n---\na: 1\n--- # next\nb: 2\n---\n",
            "---\r\na: 1\r\n---\r\nb: 2\r\n",
        ] {
            assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2})], "{text:?}");
        }
    }

    #[test]
    fn dashes_within_a_value_do_not_end_a_document() {
        let text = "a: |\n  ---\n  x\nb: ----\n";
        assert_eq!(values(text), [json!({"a": "---\nx\n", "b": "----"})]);
    }

    #[test]
    fn an_error_names_the_line_in_the_file() {
        let text = "a: 1\n---\nb: 1\nc: [\n";
        let error = parse_yaml(split(text)[1]).unwrap_err();
        assert!([4, 5].contains(&error.line), "{error}");
        let line = format!("line {}", error.line);
        assert!(error.to_string().contains(&line), "{error}");
        assert_eq!(parse_json("{\n\"a\": }").unwrap_err().line, 2);
    }

    #[test]
    fn a_field_given_twice_is_an_error() {
        let error = whole("mode: STRICT\nmode: PERMISSIVE\n").unwrap_err();
        assert!(error.contains("`mode` is there twice"), "{error}");
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let previous = level - 1;
            let ten = vec![format!("*a{previous}"); 10].join(", ");
            let line = format!("a{level}: &a{level} [{ten}]\n");
            text.push_str(&line);
        }
        assert!(whole(&text).is_err());
        let long = format!(
            "a: &a \"{}\"\nb: [{}]\n",
            "x".repeat(5000),
            ["*a"; 50].join(", ")
        );
        let error = whole(&long).unwrap_err();
        assert!(error.contains("aliases expand"), "{error}");
    }

    #[test]
    fn a_plain_alias_is_read() {
        assert_eq!(
            whole("a: &x {k: v}\nb: *x\n"),
            Ok(json!({"a": {"k": "v"}, "b": {"k": "v"}}))
        );
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(whole(&"[".repeat(100_000)).is_err());
        assert!(whole(&("[".repeat(5000) + &"]".repeat(5000))).is_err());
        assert!(parse_json(&("[".repeat(5000) + &"]".repeat(5000))).is_err());
    }

    #[test]
    fn json_is_one_value_and_nothing_after_it() {
        assert_eq!(
            parse_json("{\"a\":\t[1, null]}\n"),
            Ok(json!({"a": [1, null]}))
        );
        assert!(parse_json("{} {}").is_err());
    }
}
