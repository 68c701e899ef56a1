//! Where an object was read.

use std::{fmt, sync::Arc};

use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    pub file: Arc<str>,
    /// Of its document's start, counted from 1.
    pub line: usize,
    /// Kind, namespace and name.
    pub object: Arc<str>,
}

impl Origin {
    /// Its texts end up in comments and on terminals: they hold no control characters.
    pub fn new(file: &str, line: usize, object: &str) -> Self {
        let printable = |text: &str| text.replace(char::is_control, "\u{fffd}").into();
        Self {
            file: printable(file),
            line,
            object: printable(object),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.object)
    }
}
