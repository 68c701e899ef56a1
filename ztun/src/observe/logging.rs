//! The daemon's log: on stderr, with a filter that can be changed while it runs.

use std::{
    fmt,
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// The filter in force.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    #[error(
        "`{filter}` is no log filter: {reason}; write levels such as `info` or `info,ztun::proxy=debug`"
    )]
    Filter { filter: String, reason: String },
    #[error("cannot log: {0}")]
    Subscriber(String),
}

impl LogFilter {
    /// Starts to log, once in a process.
    pub fn start(format: LogFormat, filter: &str) -> Result<Self, LogFilterError> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let registry = tracing_subscriber::registry().with(layer);
        match format {
            LogFormat::Text => registry.with(lines).try_init(),
            LogFormat::Json => registry.with(lines.json()).try_init(),
        }
        .map_err(|error| LogFilterError::Subscriber(error.to_string()))?;
        Ok(Self {
            handle,
            text: Arc::new(Mutex::new(filter.to_owned())),
        })
    }

    /// Replaces the filter; on an error the one in force stays.
    pub fn set(&self, filter: &str) -> Result<(), LogFilterError> {
        let parsed = parse(filter)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle
            .reload(parsed)
            .map_err(|error| LogFilterError::Subscriber(error.to_string()))?;
        filter.clone_into(&mut text);
        drop(text);
        tracing::info!(filter, "log filter changed");
        Ok(())
    }

    pub fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.text()).finish()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogFilterError> {
    EnvFilter::try_new(filter).map_err(|error| LogFilterError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}
