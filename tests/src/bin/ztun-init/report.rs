//! What the host is told, a line for each thing: `WORD REST`. The host's side is xtask's `vm::console`.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};

const PORT: &str = "/dev/ttyS1";

pub struct Report(Mutex<File>);

impl Report {
    pub fn open() -> Result<Self> {
        let port = OpenOptions::new()
            .write(true)
            .open(PORT)
            .with_context(|| format!("open {PORT}"))?;
        let mut settings = tcgetattr(&port)?;
        cfmakeraw(&mut settings);
        tcsetattr(&port, SetArg::TCSANOW, &settings)?;
        Ok(Self(Mutex::new(port)))
    }

    /// The machine is prepared.
    pub fn ready(&self, release: &str) {
        self.line(&format!("ready {release}"));
    }

    pub fn start(&self, run: &str) {
        self.line(&format!("start {run}"));
    }

    pub fn end(&self, run: &str, status: ExitStatus) {
        self.line(&format!("end {run} {}", status.into_raw()));
    }

    /// Hands lines on, each after `word`, until there are no more.
    pub fn output(&self, word: &str, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            self.line(&format!("{word} {line}"));
        }
    }

    /// Every run has ended.
    pub fn done(&self) {
        self.line("done");
    }

    /// Nothing more will run.
    pub fn failed(&self, error: &anyhow::Error) {
        let text = format!("{error:#}").replace('\n', "; ");
        self.line(&format!("failed {text}"));
    }

    /// Waits until everything has left the port.
    pub fn flush(&self) {
        let port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = tcdrain(&*port) {
            eprintln!("ztun-init: {PORT}: {error}");
        }
    }

    fn line(&self, line: &str) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = port.write_all(format!("{line}\n").as_bytes()) {
            eprintln!("ztun-init: {PORT}: {error}");
        }
    }
}
