//! Ways past capture that a process in a pod may try, without privileges or as root of the pod's own users: none
//! leads out.

use std::{
    any,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{MsgFlags, SockaddrStorage, sendto},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpStream, task::block_in_place};
use ztun_tests::{
    Enrolment, Family, Mesh, MeshBuilder, MtlsMode, PodSpec, Process, Users, app, cgroup::Cgroup,
    io_uring, pod::Pod, scenario, scenario::skip, wait,
};

use crate::PORT;

/// For connections in clear, whose last packets may cross late.
const CLEAR_PORT: u16 = 8081;
const MARKER: &str = "marker-on-a-way-out";
/// `IPPROTO_MPTCP`
const MULTIPATH: i32 = 262;
/// Bits of the sysctl `tcp_fastopen`: for clients, and data with the first packet although no cookie is known.
const FAST_OPEN_WITHOUT_COOKIE: &str = "5";
/// The host's byte of the addresses that a test adds.
const NEW_HOST: u8 = 200;
const PATIENCE: Duration = Duration::from_secs(5);

/// How a process goes about its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    BoundToInterface,
    BoundToInterfaceOnceConnected,
    FastOpen,
    Multipath,
    IoUring,
}

/// What capture makes of it while the daemon lives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Captured,
    Refused,
    /// What it sends reaches the daemon or nobody.
    CapturedOrLost,
}

#[test]
fn a_plain_connection_is_no_way_out() {
    is_closed(Way::Plain, Outcome::Captured);
}

#[test]
fn a_socket_that_is_bound_to_an_interface_is_no_way_out() {
    is_closed(Way::BoundToInterface, Outcome::Refused);
}

#[test]
fn a_connection_that_is_bound_to_an_interface_is_no_way_out() {
    is_closed(Way::BoundToInterfaceOnceConnected, Outcome::CapturedOrLost);
}

#[test]
fn tcp_fast_open_is_no_way_out() {
    is_closed(Way::FastOpen, Outcome::Captured);
}

#[test]
fn multipath_tcp_is_no_way_out() {
    let test = any::type_name_of_val(&multipath_tcp_is_no_way_out);
    match Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(MULTIPATH))) {
        Ok(_) => is_closed(Way::Multipath, Outcome::Captured),
        Err(error) => skip(test, &format!("needs MPTCP: {error}")),
    }
}

#[test]
fn io_uring_is_no_way_out() {
    let test = any::type_name_of_val(&io_uring_is_no_way_out);
    match io_uring::is_available() {
        Ok(()) => is_closed(Way::IoUring, Outcome::Captured),
        Err(reason) => skip(test, &reason),
    }
}

#[test]
fn a_socket_that_is_older_than_the_enrolment_is_no_way_out() {
    scenario(mesh(), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let outside = mesh.pod("outside/server");
        let echo = outside.echo(PORT)?;
        let _server = server.echo(PORT)?;
        let older = |to: SocketAddr| socket(client, to, None);
        let captured = Family::ALL.map(|family| server.at(family, PORT));
        let refused = Family::ALL.map(|family| outside.at(family, PORT));
        let for_captured = captured.map(older);
        let for_refused = refused.map(older);
        mesh.enrol("shop/client").await?;
        let capture = mesh.capture()?;
        for (socket, to) in for_captured.into_iter().zip(captured) {
            block_in_place(|| talk(open(Way::Plain, socket?, to)?))?;
        }
        mesh.node("a").kill_daemon().await?;
        for (socket, to) in for_refused.into_iter().zip(refused) {
            let refused = block_in_place(|| open(Way::Plain, socket?, to));
            assert_eq!(kind(refused.map(drop)), Err(ErrorKind::PermissionDenied));
        }
        assert_eq!(echo.peers(), []);
        ensure_nothing_in_clear(capture)
    });
}

#[test]
fn a_link_local_address_is_no_way_out() {
    let neighbour = PodSpec::new("outside/neighbour")
        .on("a")
        .enrolment(Enrolment::Outside);
    scenario(mesh().pod(neighbour), async |mesh| {
        let (client, neighbour) = (mesh.pod("shop/client"), mesh.pod("outside/neighbour"));
        let echo = neighbour.echo(PORT)?;
        let interface = client
            .netns
            .run(|| nix::net::if_::if_nametoindex("eth0"))??;
        let ip = link_local(neighbour)?;
        let to = SocketAddr::from(SocketAddrV6::new(ip, PORT, 0, interface));
        assert_eq!(
            client.connect(to).await.map(drop).map_err(|e| e.kind()),
            Ok(())
        );
        mesh.enrol("shop/client").await?;
        let before = echo.peers().len();
        for way in [Way::Plain, Way::BoundToInterface, Way::FastOpen] {
            let refused = attempt(way, client, to);
            assert_eq!(kind(refused), Err(ErrorKind::PermissionDenied), "{way:?}");
        }
        mesh.node("a").kill_daemon().await?;
        let refused = attempt(Way::Plain, client, to);
        assert_eq!(kind(refused), Err(ErrorKind::PermissionDenied));
        assert_eq!(echo.peers().len(), before);
        Ok(())
    });
}

#[test]
fn an_address_that_a_pod_got_later_is_no_way_out() {
    scenario(mesh(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let outside = mesh.pod("outside/server");
        let (_server, echo) = (server.echo(PORT)?, outside.echo(PORT)?);
        let addresses = add_addresses(client).await?;
        let capture = mesh.capture()?;
        for (family, source) in addresses {
            let to = server.at(family, PORT);
            block_in_place(|| talk(open(Way::Plain, socket(client, to, Some(source))?, to)?))?;
        }
        mesh.node("a").kill_daemon().await?;
        for (family, source) in addresses {
            let to = outside.at(family, PORT);
            let socket = socket(client, to, Some(source))?;
            let refused = block_in_place(|| open(Way::Plain, socket, to));
            assert_eq!(kind(refused.map(drop)), Err(ErrorKind::PermissionDenied));
        }
        assert_eq!(echo.peers(), []);
        ensure_nothing_in_clear(capture)
    });
}

#[test]
fn an_address_that_a_pod_got_later_is_no_way_in() {
    scenario(mesh(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let (pod, outside) = (mesh.pod("shop/client"), mesh.pod("outside/server"));
        let echo = pod.echo(PORT)?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("STRICT holds", async || {
            attempt(Way::Plain, outside, pod.at(Family::V4, PORT)).is_err()
        })
        .await?;
        // Another server: the first may still be told of a connection that STRICT cut off.
        drop(echo);
        let echo = pod.echo(PORT)?;
        let addresses = add_addresses(pod).await?;
        let refused = |address: IpAddr| attempt(Way::Plain, outside, (address, PORT).into());
        for (family, address) in addresses {
            assert!(refused(address).is_err(), "{family:?}");
        }
        mesh.node("a").kill_daemon().await?;
        for (family, address) in addresses {
            assert!(refused(address).is_err(), "{family:?}");
        }
        assert_eq!(echo.peers(), []);
        Ok(())
    });
}

/// The daemon dies before it can notice that the address is gone, and another pod gets it.
#[test]
fn an_address_that_a_pod_lost_is_no_way_out() {
    let heir = PodSpec::new("outside/heir").on("a");
    scenario(
        mesh().pod(heir.enrolment(Enrolment::Outside)),
        async |mesh| {
            let (client, heir) = (mesh.pod("shop/client"), mesh.pod("outside/heir"));
            let echo = heir.echo(PORT)?;
            let addresses = add_addresses(client).await?;
            mesh.enrol("shop/client").await?;
            mesh.node("a").kill_daemon().await?;
            for (_, address) in addresses {
                client.remove_address(address).await?;
                heir.add_address(address).await?;
            }
            for (family, address) in addresses {
                for way in [Way::Plain, Way::BoundToInterface, Way::FastOpen] {
                    let reached = attempt(way, client, (address, PORT).into());
                    assert!(reached.is_err(), "{way:?} over {family:?}");
                }
            }
            assert_eq!(echo.peers(), []);
            Ok(())
        },
    );
}

#[test]
fn a_pod_that_connects_to_an_address_it_got_later_does_not_make_the_daemon_go_in_circles() {
    scenario(mesh(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let pod = mesh.pod("shop/client");
        let _echo = pod.echo(PORT)?;
        let addresses = add_addresses(pod).await?;
        for from in ["shop/client", "outside/server"] {
            for (_, address) in addresses {
                // It may answer or not, once.
                let _ = attempt(Way::Plain, mesh.pod(from), (address, PORT).into());
            }
        }
        let log = mesh.node("a").log();
        let connections = log.matches("connection complete").count();
        assert!(connections <= 2 * addresses.len() * 2, "{connections}");
        Ok(())
    });
}

/// A socket of the pod's network namespace that belongs to another cgroup is not captured
/// (docs/guarantees.md); the other side can refuse what it brings.
#[test]
fn a_socket_from_outside_of_the_pods_cgroup_is_refused_by_a_strict_server() {
    scenario(mesh(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let echo = server.echo(PORT)?;
        let to = server.at(Family::V4, PORT);
        let foreign = || -> Result<()> {
            let socket = client
                .netns
                .run(|| Socket::new(Domain::IPV4, Type::STREAM, None))??;
            limit(&socket)?;
            Ok(block_in_place(|| talk(open(Way::Plain, socket, to)?))?)
        };
        foreign().context("in clear, as PERMISSIVE allows")?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        wait::until("STRICT holds", async || foreign().is_err()).await?;
        let before = echo.peers().len();
        assert!(foreign().is_err());
        assert_eq!(echo.peers().len(), before);
        // And it is the way, not the pod, that is refused.
        attempt(Way::Plain, client, to)?;
        Ok(())
    });
}

/// A process takes its sockets along, and captured is what was made in the pod's cgroup (docs/guarantees.md).
#[test]
fn a_process_that_moves_to_another_cgroup_is_refused_by_a_strict_server() {
    scenario(mesh(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let echo = server.echo(PORT)?;
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        let outside = mesh.pod("outside/server");
        wait::until("STRICT holds", async || {
            attempt(Way::Plain, outside, server.at(Family::V4, PORT)).is_err()
        })
        .await?;
        let process = Process::start(&client.netns, &client.cgroup)?;
        let below = Cgroup::create(&client.cgroup.path().join("container"))?;
        let elsewhere = Cgroup::create(&mesh.node("a").cgroup()?.join("elsewhere"))?;
        for family in Family::ALL {
            let to = server.at(family, PORT);
            let older = || process.tcp_socket(to);
            below.take(process.pid())?;
            let below_the_pod = older()?.connect(to).await?;
            says_the_marker(below_the_pod).await.context("below")?;
            let older = older()?;
            elsewhere.take(process.pid())?;
            says_the_marker(older.connect(to).await?)
                .await
                .context("older")?;
            let before = echo.peers().len();
            let newer = async { says_the_marker(process.connect(to).await?).await };
            assert!(newer.await.is_err(), "{family:?} from another cgroup");
            assert_eq!(echo.peers().len(), before);
        }
        Ok(())
    });
}

async fn says_the_marker(mut stream: TcpStream) -> Result<()> {
    ensure!(app::exchange(&mut stream, MARKER).await? == MARKER);
    Ok(())
}

/// Tries the way without capture, where it must lead out; with it; and with a daemon that was killed.
fn is_closed(way: Way, expected: Outcome) {
    for users in [Users::Host, Users::Own] {
        is_closed_to(users, way, expected);
    }
}

fn is_closed_to(users: Users, way: Way, expected: Outcome) {
    scenario(mesh_with(users), async |mesh| {
        let (client, server) = (mesh.pod("shop/client"), mesh.pod("shop/server"));
        let outside = mesh.pod("outside/server");
        let (_server, echo) = (server.echo(PORT)?, outside.echo(PORT)?);
        client
            .netns
            .sysctl("net/ipv4/tcp_fastopen", FAST_OPEN_WITHOUT_COOKIE)?;

        let _in_clear = outside.echo(CLEAR_PORT)?;
        let capture = mesh.capture()?;
        for family in Family::ALL {
            let done = attempt(way, client, outside.at(family, CLEAR_PORT));
            done.with_context(|| format!("{way:?} without capture, {family:?}"))?;
        }
        let recording = capture.finish()?;
        ensure!(
            !recording.flows_with(MARKER).is_empty(),
            "{way:?} is no way"
        );

        mesh.enrol("shop/client").await?;
        let capture = mesh.capture()?;
        for family in Family::ALL {
            let result = attempt(way, client, server.at(family, PORT));
            let expected = match expected {
                Outcome::Captured => Ok(()),
                Outcome::Refused => Err(ErrorKind::PermissionDenied),
                Outcome::CapturedOrLost => continue,
            };
            assert_eq!(kind(result), expected, "{family:?}");
        }
        ensure_nothing_in_clear(capture)?;

        mesh.node("a").kill_daemon().await?;
        let capture = mesh.capture()?;
        for family in Family::ALL {
            for target in [server, outside] {
                let result = attempt(way, client, target.at(family, PORT));
                assert_eq!(
                    kind(result),
                    Err(ErrorKind::PermissionDenied),
                    "{family:?} with no daemon"
                );
            }
        }
        assert_eq!(echo.peers(), []);
        ensure_nothing_in_clear(capture)
    });
}

/// A client that is not enrolled yet, and on the other node a server in the mesh and one outside of it.
fn mesh() -> MeshBuilder {
    mesh_with(Users::Host)
}

fn mesh_with(users: Users) -> MeshBuilder {
    let client = PodSpec::new("shop/client").on("a").users(users);
    Mesh::builder()
        .nodes(["a", "b"])
        .pod(client.enrolment(Enrolment::Later))
        .pod(PodSpec::new("shop/server").on("b"))
        .pod(
            PodSpec::new("outside/server")
                .on("b")
                .enrolment(Enrolment::Outside),
        )
}

fn ensure_nothing_in_clear(capture: ztun_tests::Capture) -> Result<()> {
    let recording = capture.finish()?;
    assert_eq!(recording.packets_of_port(PORT), 0);
    assert_eq!(recording.flows_with(MARKER), []);
    Ok(())
}

/// Connects and sends the marker to a server that sends it back.
fn attempt(way: Way, pod: &Pod, to: SocketAddr) -> io::Result<()> {
    block_in_place(|| {
        let protocol = (way == Way::Multipath).then(|| Protocol::from(MULTIPATH));
        let socket = pod.socket(Domain::for_address(to), Type::STREAM, protocol)?;
        limit(&socket)?;
        talk(open(way, socket, to)?)
    })
}

fn socket(pod: &Pod, to: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = pod.socket(Domain::for_address(to), Type::STREAM, None)?;
    limit(&socket)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

fn limit(socket: &Socket) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    // It limits connect(), too.
    socket.set_write_timeout(Some(PATIENCE))
}

/// Connects; with a fast open the marker is sent already.
fn open(way: Way, socket: Socket, to: SocketAddr) -> io::Result<Opened> {
    let mut sent = 0;
    match way {
        Way::Plain | Way::Multipath => socket.connect(&to.into())?,
        Way::BoundToInterface => {
            socket.bind_device(Some(b"eth0"))?;
            socket.connect(&to.into())?;
        }
        Way::BoundToInterfaceOnceConnected => {
            socket.connect(&to.into())?;
            socket.bind_device(Some(b"eth0"))?;
        }
        Way::FastOpen => {
            sent = sendto(
                socket.as_raw_fd(),
                MARKER.as_bytes(),
                &SockaddrStorage::from(to),
                MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
            )?;
        }
        Way::IoUring => io_uring::connect(&socket, to)?,
    }
    Ok(Opened { socket, sent })
}

struct Opened {
    socket: Socket,
    /// How much of the marker was sent.
    sent: usize,
}

fn talk(opened: Opened) -> io::Result<()> {
    let Opened { mut socket, sent } = opened;
    socket.write_all(&MARKER.as_bytes()[sent..])?;
    let mut answer = vec![0; MARKER.len()];
    socket.read_exact(&mut answer)?;
    if answer == MARKER.as_bytes() {
        Ok(())
    } else {
        Err(ErrorKind::InvalidData.into())
    }
}

fn kind(result: io::Result<()>) -> Result<(), ErrorKind> {
    result.map_err(|error| error.kind())
}

/// Gives the pod another address of each family.
async fn add_addresses(pod: &Pod) -> Result<[(Family, IpAddr); 2]> {
    let addresses =
        [Family::V4, Family::V6].map(|family| (family, pod.address_with_host(family, NEW_HOST)));
    for (_, address) in addresses {
        pod.add_address(address).await?;
        // IPv6 thinks about it even where it need not ask others.
        let binds = async || socket(pod, (address, 0).into(), Some(address)).is_ok();
        wait::until(format!("{address} can be used"), binds).await?;
    }
    Ok(addresses)
}

fn link_local(pod: &Pod) -> Result<Ipv6Addr> {
    let find = || -> Result<Option<Ipv6Addr>> {
        let mut ips = getifaddrs()?
            .filter(|interface| interface.interface_name == "eth0")
            .filter_map(|interface| Some(interface.address?.as_sockaddr_in6()?.ip()));
        Ok(ips.find(Ipv6Addr::is_unicast_link_local))
    };
    pod.netns
        .run(find)??
        .context("the pod has no link-local address")
}
