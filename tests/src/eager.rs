//! Processes that connect from their first instruction on.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin},
};

use crate::{pod::Pod, sockets};

/// What each connection sends, and expects back.
pub const GREETING: &str = "from the first instruction on";
/// A connection that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// When the process begins to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At [`Eager::go`]: its next instruction connects.
    WhenTold,
    AtOnce,
}

/// A process of a pod. It ends after so many connections that it began after [`Eager::go`].
pub struct Eager {
    process: Child,
    told: ChildStdin,
}

/// How one connection went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Begun before [`Eager::go`].
    pub early: bool,
    /// `None` if the server's answer came.
    pub failure: Option<String>,
}

impl Pod {
    pub fn eager(&self, start: Start, server: SocketAddr, connections: usize) -> Result<Eager> {
        let mut process = self
            .command(sockets::beside_this_program("ztun-connect")?)?
            .arg(start.to_string())
            .arg(server.to_string())
            .arg(connections.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start ztun-connect")?;
        let told = process.stdin.take().context("no standard input")?;
        Ok(Eager { process, told })
    }
}

impl Eager {
    pub async fn go(&mut self) -> Result<()> {
        self.told.write_all(b"!").await.context("say go")
    }

    /// All of its connections, in order.
    pub async fn ended(self) -> Result<Vec<Attempt>> {
        let output = self.process.wait_with_output().await?;
        ensure!(output.status.success(), "ztun-connect: {}", output.status);
        let printed = String::from_utf8(output.stdout)?;
        printed.lines().map(str::parse).collect()
    }
}

/// The main function of `ztun-connect`.
pub fn connect(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let mut next = || arguments.next().unwrap_or_default();
    let (start, server, connections) = (next(), next(), next());
    let usage = "usage: ztun-connect when-told|at-once ADDRESS:PORT CONNECTIONS";
    let (Ok(server), Ok(connections)) = (server.parse(), connections.parse()) else {
        return Err(io::Error::other(usage));
    };
    let told = Arc::new(AtomicBool::new(false));
    if start == Start::WhenTold.to_string() {
        io::stdin().read_exact(&mut [0])?;
        told.store(true, Ordering::SeqCst);
    } else {
        let told = Arc::clone(&told);
        thread::spawn(move || {
            let read = io::stdin().read_exact(&mut [0]);
            told.store(true, Ordering::SeqCst);
            read
        });
    }
    let mut made = Vec::new();
    let mut late = 0;
    while late < connections {
        let early = !told.load(Ordering::SeqCst);
        late += usize::from(!early);
        let failure = exchange(server).err().map(|error| error.to_string());
        made.push(Attempt { early, failure });
    }
    let mut out = io::stdout().lock();
    made.iter()
        .try_for_each(|attempt| writeln!(out, "{attempt}"))
}

fn exchange(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(GREETING.as_bytes())?;
    stream.read_exact(&mut [0; GREETING.len()])
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WhenTold => "when-told",
            Self::AtOnce => "at-once",
        })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.early { "early" } else { "late" };
        let failure = self.failure.as_deref().unwrap_or_default();
        write!(f, "{when} {failure}")
    }
}

impl FromStr for Attempt {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (when, failure) = line.split_once(' ').context("not an attempt")?;
        let early = match when {
            "early" => true,
            "late" => false,
            other => bail!("neither early nor late: {other}"),
        };
        let failure = (!failure.is_empty()).then(|| failure.to_owned());
        Ok(Self { early, failure })
    }
}
