//! What a guest says over its second serial port, a line for each thing. The guest's side is the
//! program `ztun-init` of the package `ztun-tests`.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    /// The machine is prepared; this is its kernel's release.
    Ready(&'a str),
    /// A test binary starts.
    Start(&'a str),
    /// The running binary's line on its standard output.
    Out(&'a str),
    /// The running binary's line on its standard error.
    Err(&'a str),
    /// A test binary has ended.
    End(&'a str, ExitStatus),
    /// Every binary has ended.
    Done,
    /// Nothing more will run, for this reason.
    Failed(&'a str),
}

/// None for what is no message, such as what firmware prints.
pub fn parse(line: &str) -> Option<Message<'_>> {
    let line = line.trim_end_matches('\r');
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(match word {
        "ready" => Message::Ready(rest),
        "start" => Message::Start(rest),
        "out" => Message::Out(rest),
        "err" => Message::Err(rest),
        "end" => {
            let (run, status) = rest.split_once(' ')?;
            Message::End(run, ExitStatus::from_raw(status.parse().ok()?))
        }
        "done" => Message::Done,
        "failed" => Message::Failed(rest),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_followed_from_its_start_to_its_end() {
        assert_eq!(parse("ready 6.1.0-50"), Some(Message::Ready("6.1.0-50")));
        assert_eq!(parse("start datapath"), Some(Message::Start("datapath")));
        assert_eq!(
            parse("out test paths::a ... ok\r"),
            Some(Message::Out("test paths::a ... ok"))
        );
        assert_eq!(parse("err"), Some(Message::Err("")), "an empty line");
        let failed = ExitStatus::from_raw(101 << 8);
        assert_eq!(
            parse("end datapath 25856"),
            Some(Message::End("datapath", failed))
        );
        assert_eq!(parse("done"), Some(Message::Done));
        assert_eq!(
            parse("failed mount cgroup2: EBUSY"),
            Some(Message::Failed("mount cgroup2: EBUSY"))
        );
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        assert_eq!(parse("SeaBIOS (version 1.16)"), None);
        assert_eq!(parse("end datapath soon"), None);
        assert_eq!(parse(""), None);
    }
}
