//! A node's daemon: `ztun node` as a process.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{
            self, AddressFamily, SockFlag, SockType, UnixAddr, getsockopt, sockopt::PeerCredentials,
        },
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    cgroup::Cgroup,
    namespace::{Netns, confine},
    sockets::beside_this_program,
    wait,
};

/// Where each daemon answers inside its own node's network namespace.
pub const READINESS: SocketAddr = loopback(15021);
pub const METRICS: SocketAddr = loopback(15020);
pub const ADMIN: SocketAddr = loopback(15000);

/// A daemon has this long to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A daemon has this long to drain.
const EXIT_TIMEOUT: Duration = Duration::from_mins(1);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Daemon {
    process: Child,
    log: PathBuf,
}

/// The binary under test: `ZTUN_BIN`, or the one that was built beside the tests.
pub fn binary() -> Result<PathBuf> {
    let path = match env::var_os("ZTUN_BIN") {
        Some(path) => path.into(),
        None => beside_this_program("ztun")?,
    };
    ensure!(
        path.exists(),
        "there is no {}: run `cargo xtask build`, or set ZTUN_BIN",
        path.display()
    );
    Ok(path)
}

impl Daemon {
    /// Starts a daemon; it is not ready yet.
    pub fn start(configuration: &Path, log: &Path, netns: &Netns, cgroup: &Cgroup) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = std::process::Command::new(binary()?);
        command
            .args(["node", "--config"])
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // Its settings are in the file alone: what steers the tests is none of its business.
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ZTUN_") {
                command.env_remove(name);
            }
        }
        confine(&mut command, netns, cgroup)?;
        let process = Command::from(command)
            // Ctrl-C on a demo must not end the daemons before the demo does.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start the daemon")?;
        Ok(Self {
            process,
            log: log.to_owned(),
        })
    }

    /// Waits until this daemon is the one that whoever connects at `socket` finds.
    pub async fn wait_until_it_listens(&mut self, socket: &Path) -> Result<()> {
        let own = self.pid()?.as_raw();
        let process = &mut self.process;
        let mut exited = None;
        let took_over = wait::until_within(START_TIMEOUT, "the daemon took over", async || {
            exited = process.try_wait().ok().flatten();
            exited.is_some() || listener_at(socket).is_ok_and(|pid| pid == own)
        })
        .await;
        if let Some(status) = exited {
            anyhow::bail!("the daemon has ended at once: {status}\n{}", self.log());
        }
        took_over.with_context(|| self.log())
    }

    pub async fn wait_until_ready(&mut self, netns: &Netns) -> Result<()> {
        let process = &mut self.process;
        let mut exited = None;
        let ready = wait::until_within(START_TIMEOUT, "the daemon is not ready", async || {
            exited = process.try_wait().ok().flatten();
            exited.is_some() || is_ready(netns)
        })
        .await;
        if let Some(status) = exited {
            anyhow::bail!("the daemon has ended at once: {status}\n{}", self.log());
        }
        ready.with_context(|| self.log())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|status| status.is_none())
    }

    pub fn pid(&self) -> Result<Pid> {
        let pid = self.process.id().context("the daemon has ended")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal} to the daemon"))
    }

    /// Waits for the daemon to end by itself; answers whether it did so without an error.
    pub async fn ended(&mut self) -> Result<bool> {
        Ok(self.exit_status().await?.success())
    }

    pub async fn exit_status(&mut self) -> Result<ExitStatus> {
        let status = timeout(EXIT_TIMEOUT, self.process.wait()).await;
        Ok(status.context("the daemon does not end")??)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// GETs `path` of the daemon's server at `address` in `netns`: the status line's code and the body.
pub fn http_get(netns: &Netns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (head, body) = http_answer(netns, address, path)?;
    let code = head.split(' ').nth(1).context("no HTTP status")?;
    Ok((code.parse()?, body))
}

/// As [`http_get`], with the whole head.
pub fn http_answer(netns: &Netns, address: SocketAddr, path: &str) -> Result<(String, String)> {
    http_request(netns, address, "GET", path)
}

/// The head and the body of the answer to a request without a body.
pub fn http_request(
    netns: &Netns,
    address: SocketAddr,
    method: &str,
    path: &str,
) -> Result<(String, String)> {
    netns.run(|| -> Result<(String, String)> {
        let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
        stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        Ok((head.to_owned(), body.to_owned()))
    })?
}

/// The process that listens for whole messages at `socket`.
pub fn listener_at(socket: &Path) -> Result<i32> {
    let client = connect_at(socket)?;
    Ok(getsockopt(&client, PeerCredentials)?.pid())
}

/// A connection to whoever listens for whole messages at `socket`.
pub fn connect_at(socket: &Path) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let client = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    socket::connect(client.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(client)
}

/// Clients of the metrics of the daemon in this network namespace, as many as come through.
pub fn unfinished_requests(count: usize) -> Vec<TcpStream> {
    let client = |_| {
        let mut stream = TcpStream::connect_timeout(&METRICS, Duration::from_millis(100)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").ok()?;
        Some(stream)
    };
    (0..count).filter_map(client).collect()
}

fn is_ready(netns: &Netns) -> bool {
    http_get(netns, READINESS, "/healthz/ready").is_ok_and(|(code, _)| code == 200)
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
