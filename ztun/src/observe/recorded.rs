//! Reads inbound connections back from the lines of [`super::access_log`], JSON or text.

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, str::FromStr};

use serde_json::{Map, Value};

use crate::mesh::{PodName, answers::simulate::RecordedFlow};

/// What the text format puts before the fields.
const TEXT_START: &str = " access: connection complete ";
/// How an error begins if policy refused the connection.
const DENIED: &str = "denied by ";

/// The fields of a line, as text.
type Fields<'a> = BTreeMap<&'a str, String>;

/// The connection of a line, and how many like it the line stands for. `None` if the line is about
/// something else; an error if it is one of the access log and can't be read.
pub fn inbound(line: &str) -> Result<Option<(RecordedFlow, u64)>, String> {
    let json;
    let fields = if line.starts_with('{') {
        json = serde_json::from_str(line).map_err(|error| error.to_string())?;
        of_json(&json)
    } else {
        of_text(line)
    };
    match fields {
        Some(fields) if fields.get("direction").is_some_and(|it| it == "inbound") => {
            flow(&fields).map(Some)
        }
        _ => Ok(None),
    }
}

fn of_json(line: &Map<String, Value>) -> Option<Fields<'_>> {
    if line.get("target")? != "access" {
        return None;
    }
    let fields = line.get("fields")?.as_object()?.iter();
    let texts = fields.map(|(name, value)| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (name.as_str(), text)
    });
    Some(texts.collect())
}

fn of_text(line: &str) -> Option<Fields<'_>> {
    let (_, mut rest) = line.split_once(TEXT_START)?;
    let mut fields = Fields::new();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            // The only one that holds blanks without quotes, and the last.
            _ if name == "error" => (after.to_owned(), ""),
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, after) = after.split_once(' ').unwrap_or((after, ""));
                (value.to_owned(), after)
            }
        };
        fields.insert(name, value);
        rest = after.trim_start();
    }
    Some(fields)
}

/// What is before the closing quote, and what is after it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

fn flow(fields: &Fields<'_>) -> Result<(RecordedFlow, u64), String> {
    let pod = |side: &str| {
        let namespace = fields.get(&*format!("{side}.namespace"))?;
        let name = fields.get(&*format!("{side}.workload"))?;
        Some(PodName::new(namespace, name))
    };
    let source: SocketAddr = required(fields, "src.addr")?;
    let identity = fields
        .get("src.identity")
        .map(|text| parsed("src.identity", text));
    let error = fields
        .get("error")
        .filter(|error| error.starts_with(DENIED));
    let suppressed = fields
        .get("suppressed")
        .map(|text| parsed::<u64>("suppressed", text));
    let flow = RecordedFlow {
        source_identity: identity.transpose()?,
        source_pod: pod("src"),
        source_address: source.ip(),
        destination_pod: pod("dst"),
        destination_address: required(fields, "dst.addr")?,
        denied: error.map(|error| error.as_str().into()),
    };
    Ok((flow, 1 + suppressed.transpose()?.unwrap_or(0)))
}

fn required<T: FromStr<Err: Display>>(fields: &Fields<'_>, name: &str) -> Result<T, String> {
    let text = fields
        .get(name)
        .ok_or_else(|| format!("{name} is missing"))?;
    parsed(name, text)
}

fn parsed<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("{name}: `{text}`: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::{
        mesh::{Identity, fixture::workload},
        observe::{
            Direction, Flow, Party, Security,
            access_log::{Bytes, Remarks, connection_complete},
        },
    };

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Format {
        Json,
        Text,
    }

    /// The line that the access log writes.
    fn written(format: Format, flow: &Flow, remarks: Remarks<'_>) -> String {
        let log = Log::default();
        let lines = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false);
        let bytes = Bytes {
            to_destination: 1,
            to_source: 2,
        };
        let write = || connection_complete(flow, bytes, Duration::from_millis(3), remarks);
        match format {
            Format::Json => tracing::subscriber::with_default(lines.json().finish(), write),
            Format::Text => tracing::subscriber::with_default(lines.finish(), write),
        }
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().trim_end().to_owned()
    }

    fn flow(direction: Direction) -> Flow {
        let (client, server) = (workload("client", &[]), workload("server", &[]));
        Flow {
            pod: server.pod.clone(),
            direction,
            source: Party::workload("10.0.0.1:4711".parse().unwrap(), &Arc::new(client)),
            destination: Party::workload("[fd00::2]:80".parse().unwrap(), &Arc::new(server)),
            hbone_address: None,
            service: None,
            security: Security::MutualTls,
        }
    }

    #[test]
    fn what_the_access_log_writes_is_read_back() {
        let identity: Identity = "spiffe://cluster.local/ns/foo/sa/default".parse().unwrap();
        let denial = "denied by AuthorizationPolicy foo/a: no rule matches: direction=\"outbound\"";
        let remarks = Remarks {
            error: Some(&denial),
            audit: Some("AuthorizationPolicy foo/\"b\" matched (rules[0])"),
            suppressed: Some(4),
        };
        for format in [Format::Json, Format::Text] {
            let line = written(format, &flow(Direction::Inbound), remarks);
            let (read, connections) = inbound(&line).unwrap().unwrap();
            assert_eq!(connections, 5, "{line}");
            let expected = RecordedFlow {
                source_identity: Some(identity.clone()),
                source_pod: Some(PodName::new("foo", "client")),
                source_address: "10.0.0.1".parse().unwrap(),
                destination_pod: Some(PodName::new("foo", "server")),
                destination_address: "[fd00::2]:80".parse().unwrap(),
                denied: Some(denial.into()),
            };
            assert_eq!(read, expected, "{line}");
        }
    }

    #[test]
    fn a_connection_that_failed_or_ended_otherwise_was_not_denied() {
        for error in [
            None,
            Some("no longer allowed: denied by x"),
            Some("connect failed"),
        ] {
            let remarks = Remarks {
                error: error.as_ref().map(|error| error as &dyn Display),
                ..Remarks::default()
            };
            for format in [Format::Json, Format::Text] {
                let line = written(format, &flow(Direction::Inbound), remarks);
                let (read, connections) = inbound(&line).unwrap().unwrap();
                assert_eq!((read.denied, connections), (None, 1), "{line}");
            }
        }
    }

    #[test]
    fn plaintext_from_outside_has_neither_identity_nor_pod() {
        let mut flow = flow(Direction::Inbound);
        flow.source = Party::unknown("192.0.2.1:1".parse().unwrap());
        for format in [Format::Json, Format::Text] {
            let line = written(format, &flow, Remarks::default());
            let (read, _) = inbound(&line).unwrap().unwrap();
            assert_eq!(
                (read.source_identity, read.source_pod),
                (None, None),
                "{line}"
            );
        }
    }

    #[test]
    fn other_lines_are_none_of_it_and_broken_ones_are_told() {
        let outbound = flow(Direction::Outbound);
        for line in [
            written(Format::Json, &outbound, Remarks::default()),
            written(Format::Text, &outbound, Remarks::default()),
            String::new(),
            "2026-01-01T00:00:00Z  INFO ztun::node: started".to_owned(),
            r#"{"level":"INFO","fields":{"message":"started"},"target":"ztun::node"}"#.to_owned(),
        ] {
            assert_eq!(inbound(&line), Ok(None), "{line}");
        }
        let line = written(Format::Json, &flow(Direction::Inbound), Remarks::default());
        for broken in [
            line[..line.len() / 2].to_owned(),
            line.replace("10.0.0.1:4711", "10.0.0.1"),
            line.replace("spiffe://", ""),
            line.replace("dst.addr", "address"),
        ] {
            assert!(inbound(&broken).is_err(), "{broken}");
        }
    }
}
