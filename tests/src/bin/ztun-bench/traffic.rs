//! Short connections of every kind: between nodes, within one, through a service; short and longer ones;
//! some closed, some reset half way by either end.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use ztun_tests::{
    Family, Mesh, MeshBuilder, Pod, PodSpec, ServiceSpec,
    app::{App, reset},
};

const CLIENTS: [(&str, &str); 3] = [
    ("shop/client-1", "a"),
    ("shop/client-2", "a"),
    ("shop/client-3", "b"),
];
const SERVERS: [(&str, &str); 2] = [("shop/server-a", "a"), ("shop/server-b", "b")];
const SERVICE: &str = "shop/server";

/// Echoes.
const ECHO: u16 = 8080;
/// Echoes what it reads first, then resets.
const RESET: u16 = 8081;

/// From less than a segment to more than the buffers on the way; the mean is what matters for the rate.
const SIZES: [usize; 4] = [1, 700, 9_000, 100_000];
static PAYLOAD: [u8; SIZES[3]] = payload();

/// How far apart in the order of kinds workers begin, so that the mix is the same at any time.
const STRIDE: usize = 37;

/// A connection that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a client waits after a failure, so that a dead daemon does not make it spin.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Two nodes, clients on both, and a server on each, alone and behind a service.
pub fn stage() -> MeshBuilder {
    let pod = |(path, node)| PodSpec::new(path).on(node).label("role", "client");
    let server = |(path, node)| PodSpec::new(path).on(node).label("role", "server");
    let mesh = Mesh::builder().nodes(["a", "b"]).service(
        ServiceSpec::new(SERVICE)
            .port(ECHO, ECHO)
            .port(RESET, RESET)
            .select("role", "server"),
    );
    let pods = CLIENTS.map(pod).into_iter().chain(SERVERS.map(server));
    pods.fold(mesh, MeshBuilder::pod)
}

/// The servers run until the answer is dropped.
pub fn serve(mesh: &Mesh) -> Result<Vec<App>> {
    let mut apps = Vec::new();
    for (server, _) in SERVERS {
        let server = mesh.pod(server);
        apps.push(server.echo(ECHO)?);
        apps.push(server.serve(RESET, |mut stream: TcpStream, _| async move {
            let mut start = [0; 1024];
            let length = stream.read(&mut start).await?;
            stream.write_all(&start[..length]).await?;
            reset(stream)
        })?);
    }
    Ok(apps)
}

/// Has `workers` of each client make one connection after another, until `end`.
pub async fn drive(mesh: &Mesh, workers: usize, end: Instant, tally: &Tally) {
    let client = |number: usize| mesh.pod(CLIENTS[number % CLIENTS.len()].0);
    let all = (0..workers * CLIENTS.len()).map(async |number| {
        for connection in (number * STRIDE..).map(Kind::nth) {
            if Instant::now() >= end {
                return;
            }
            let result = connection.make(mesh, client(number)).await;
            tally.count(connection, &result);
            if result.is_err() {
                sleep(AFTER_FAILURE).await;
            }
        }
    });
    join_all(all).await;
}

/// How many connections were made, and what failed how often.
#[derive(Default)]
pub struct Tally {
    connections: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> BTreeMap<String, u64> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, kind: Kind, result: &io::Result<()>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            let failures = self.failures.lock();
            let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
            *failures.entry(format!("{kind}: {error}")).or_default() += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Route {
    /// To the server of node a or b: within the node or to the other one, as the client's node has it.
    Pod(usize),
    Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Closed,
    ResetByClient,
    ResetByServer,
}

/// One kind of connection.
#[derive(Clone, Copy, Debug)]
struct Kind {
    route: Route,
    family: Family,
    size: usize,
    ending: Ending,
}

const ROUTES: [Route; 3] = [Route::Pod(0), Route::Pod(1), Route::Service];
/// Resets are the exception, as they are in a network.
const ENDINGS: [Ending; 5] = [
    Ending::Closed,
    Ending::ResetByClient,
    Ending::Closed,
    Ending::ResetByServer,
    Ending::Closed,
];

impl Kind {
    /// Goes through every combination, and begins again.
    fn nth(number: usize) -> Self {
        let mut rest = number;
        let mut next = |count: usize| {
            let digit = rest % count;
            rest /= count;
            digit
        };
        Self {
            ending: ENDINGS[next(ENDINGS.len())],
            size: SIZES[next(SIZES.len())],
            route: ROUTES[next(ROUTES.len())],
            family: Family::ALL[next(Family::ALL.len())],
        }
    }

    async fn make(self, mesh: &Mesh, client: &Pod) -> io::Result<()> {
        let connection = async {
            let stream = client.connect(self.destination(mesh)).await?;
            self.converse(stream).await
        };
        timeout(PATIENCE, connection)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it hangs")))
    }

    fn destination(self, mesh: &Mesh) -> SocketAddr {
        let port = match self.ending {
            Ending::Closed | Ending::ResetByClient => ECHO,
            Ending::ResetByServer => RESET,
        };
        match self.route {
            Route::Pod(server) => mesh.pod(SERVERS[server].0).at(self.family, port),
            Route::Service => mesh.service(SERVICE).at(self.family, port),
        }
    }

    async fn converse(self, mut stream: TcpStream) -> io::Result<()> {
        let payload = &PAYLOAD[..self.size];
        let (mut read, mut write) = stream.split();
        match self.ending {
            Ending::Closed => {
                let send = async {
                    write.write_all(payload).await?;
                    write.shutdown().await
                };
                let receive = async {
                    expect(&mut read, payload).await?;
                    expect_end(&mut read).await
                };
                tokio::try_join!(send, receive)?;
                Ok(())
            }
            Ending::ResetByClient => {
                let half = &payload[..self.size.div_ceil(2)];
                tokio::select! {
                    received = expect(&mut read, half) => received?,
                    Err(error) = write.write_all(payload) => return Err(error),
                }
                reset(stream)
            }
            Ending::ResetByServer => expect_reset(&mut read, &mut write, payload).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = match self.route {
            Route::Pod(server) => SERVERS[server].0,
            Route::Service => "service",
        };
        let ending = match self.ending {
            Ending::Closed => "closed",
            Ending::ResetByClient => "reset by the client",
            Ending::ResetByServer => "reset by the server",
        };
        let Self { family, size, .. } = self;
        write!(f, "{route}, {family:?}, {size} bytes, {ending}")
    }
}

/// Reads exactly `payload`.
async fn expect(stream: &mut (impl AsyncRead + Unpin), payload: &[u8]) -> io::Result<()> {
    let mut received = vec![0; payload.len()];
    stream.read_exact(&mut received).await?;
    if received != payload {
        return Err(io::Error::other("other bytes came back than were sent"));
    }
    Ok(())
}

async fn expect_end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes came back than were sent")),
    }
}

/// A reset must arrive as one; with a clean end the client would take half an answer for a whole one.
async fn expect_reset(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    payload: &[u8],
) -> io::Result<()> {
    let receive = async {
        tokio::io::copy(read, &mut tokio::io::sink())
            .await
            .map(drop)
    };
    match tokio::try_join!(write.write_all(payload), receive) {
        Ok(_) => Err(io::Error::other("a clean end where the server had reset")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes of which no block looks like the next one.
const fn payload<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut state = 1_u32;
    let mut at = 0;
    while at < LENGTH {
        // The generator of "Numerical Recipes"; its high bits are the good ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[at] = state.to_be_bytes()[0];
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_comes_in_turn() {
        let others = SIZES.len() * ROUTES.len() * Family::ALL.len();
        let kinds: BTreeSet<_> = (0..ENDINGS.len() * others)
            .map(|number| Kind::nth(number).to_string())
            .collect();
        // Of the five endings three are the same.
        assert_eq!(kinds.len(), 3 * others);
    }

    #[tokio::test]
    async fn a_clean_end_is_no_reset() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        let (mut read, _) = tokio::io::split(&mut ours);
        let result = expect_reset(&mut read, &mut tokio::io::sink(), b"half").await;
        assert_eq!(
            result.unwrap_err().to_string(),
            "a clean end where the server had reset"
        );
    }

    #[tokio::test]
    async fn other_bytes_are_a_failure() {
        assert!(expect(&mut &b"abc"[..], b"abc").await.is_ok());
        assert!(expect(&mut &b"abd"[..], b"abc").await.is_err());
        assert!(expect(&mut &b"ab"[..], b"abc").await.is_err());
        assert!(expect_end(&mut &b""[..]).await.is_ok());
        assert!(expect_end(&mut &b"d"[..]).await.is_err());
    }

    #[test]
    fn failures_are_counted_by_kind() {
        let tally = Tally::default();
        for number in [0, 0, 1] {
            tally.count(Kind::nth(number), &Err(io::Error::other("no")));
        }
        tally.count(Kind::nth(0), &Ok(()));
        assert_eq!(tally.connections(), 4);
        let failures = tally.failures();
        assert_eq!(failures[&format!("{}: no", Kind::nth(0))], 2);
        assert_eq!(failures.len(), 2);
    }
}
