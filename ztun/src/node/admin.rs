//! What Istio's ztunnel and Envoy answer on their admin port, from what this daemon has.

use std::sync::Arc;

use ::http::{Method, StatusCode, Uri, request::Parts};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tracing::level_filters::LevelFilter;

use super::server::Api;
use crate::{cert::CertificateStatus, config::Config, mesh::Snapshot, observe::http::Answer};

const INDEX: &str = "\
GET  /config_dump                          workloads, services, policies, certificates, configuration
POST /logging                              the log filter in force
POST /logging?level=LEVEL                  changes the level of what has none of its own
POST /logging?level=MODULE:LEVEL[,...]     changes that of modules, such as ztun::proxy:debug
POST /logging?reset[&level=...]            goes back to the configured filter first
";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDump<'a> {
    version: &'static str,
    #[serde(flatten)]
    mesh: &'a Snapshot,
    certificates: Vec<CertificateStatus>,
    config: &'a Config,
}

pub fn handler(api: Arc<Api>) -> impl Fn(&Parts) -> Option<Answer> {
    move |request| match request.uri.path() {
        "/" => Some(Answer::text(StatusCode::OK, INDEX.to_owned())),
        "/config_dump" => Some(config_dump(&api)),
        "/logging" => Some(logging(request, &api)),
        _ => None,
    }
}

fn config_dump(api: &Api) -> Answer {
    let dump = ConfigDump {
        version: env!("CARGO_PKG_VERSION"),
        mesh: &api.status.mesh.snapshot(),
        certificates: api.status.certificates.status(),
        config: &api.config,
    };
    match serde_json::to_string_pretty(&dump) {
        Ok(body) => Answer {
            status: StatusCode::OK,
            content_type: "application/json",
            body,
        },
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn logging(request: &Parts, api: &Api) -> Answer {
    if request.method != Method::POST {
        return Answer::text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("POST only\n\n{INDEX}"),
        );
    }
    let (level, reset) = (
        parameter(&request.uri, "level"),
        parameter(&request.uri, "reset"),
    );
    if level.is_some() || reset.is_some() {
        let from = if reset.is_some() {
            api.config.log_filter.clone()
        } else {
            api.log.text()
        };
        let changed = with_levels(&from, &level.unwrap_or_default())
            .and_then(|filter| api.log.set(&filter).map_err(|error| error.to_string()));
        if let Err(error) = changed {
            return Answer::text(StatusCode::BAD_REQUEST, format!("{error}\n\n{INDEX}"));
        }
    }
    Answer::text(
        StatusCode::OK,
        format!("current log level is {}\n", api.log.text()),
    )
}

/// The first of a query's parameters with this name, which may have no value.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let parameters = uri.query()?.split('&');
    let mut pairs = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// `filter` with some levels changed, which are written `LEVEL` or `MODULE:LEVEL`.
fn with_levels(filter: &str, changes: &str) -> Result<String, String> {
    let changes = directives(changes).map(|change| {
        let (module, level) = match change.rsplit_once(':') {
            Some((module, level)) => (Some(module), level),
            None => (None, change),
        };
        // A filter would take another word for a module's name.
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{level}` is not a level: write error, warn, info, debug, trace or off"
            ));
        }
        Ok(match module {
            Some(module) => format!("{module}={level}"),
            None => level.to_string(),
        })
    });
    let changes = changes.collect::<Result<Vec<_>, String>>()?;
    let is_changed = |kept: &&str| changes.iter().any(|change| target(change) == target(kept));
    let kept = directives(filter).filter(|kept| !is_changed(kept));
    let all: Vec<_> = kept.chain(changes.iter().map(String::as_str)).collect();
    Ok(all.join(","))
}

fn directives(filter: &str) -> impl Iterator<Item = &str> {
    let directives = filter.split(',').map(str::trim);
    directives.filter(|directive| !directive.is_empty())
}

/// What a directive is about; `None` is everything else.
fn target(directive: &str) -> Option<&str> {
    directive.rsplit_once('=').map(|(target, _)| target)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_changed_and_the_others_stay() {
        for (filter, changes, expected) in [
            ("info", "debug", "debug"),
            ("info,ztun=debug", "warn", "ztun=debug,warn"),
            ("info", "ztun::proxy:trace", "info,ztun::proxy=trace"),
            ("info,a=debug", "a:info,b:off", "info,a=info,b=off"),
            ("info", "", "info"),
        ] {
            let changed = with_levels(filter, changes).unwrap();
            assert_eq!(changed, expected, "{filter} {changes}");
        }
        for wrong in ["loud", "ztun", "a:loud", "a:", "a=debug"] {
            assert!(with_levels("info", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parameters_are_found_by_name_with_and_without_a_value() {
        let uri: Uri = "/logging?x=1&level=ztun%3A%3Aproxy:debug&reset"
            .parse()
            .unwrap();
        assert_eq!(parameter(&uri, "level").unwrap(), "ztun::proxy:debug");
        assert_eq!(parameter(&uri, "reset").unwrap(), "");
        assert_eq!(parameter(&uri, "lev"), None);
    }
}
