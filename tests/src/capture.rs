//! Records what crosses the network between the nodes, and searches it.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Socket, Type};

use crate::namespace::Netns;

/// A capture that misses packets proves nothing, so the kernel may keep this much for us.
const BUFFER: usize = 64 << 20;
/// The longest frame: veth passes packets that no network card has cut yet.
const FRAME: usize = 256 << 10;
/// The length of an Ethernet header.
const ETHERNET: usize = 14;
/// How long the reader waits before it looks whether to stop.
const TICK: Duration = Duration::from_millis(10);

/// Which links a capture records.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Links {
    /// Every link of a namespace that packets pass through: those that arrive.
    All,
    /// This one, both directions.
    Only(&'static str),
}

/// A running capture.
pub struct Capture {
    stop: Stop,
    reader: JoinHandle<Result<Recording>>,
}

/// Ends the reader also where a test fails: its socket would keep the namespace in being.
struct Stop(Arc<AtomicBool>);

/// What a capture has seen: the payloads of each TCP or UDP flow, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Recording {
    flows: BTreeMap<Flow, Traffic>,
}

/// One direction of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

#[derive(Debug, Default)]
struct Traffic {
    packets: usize,
    longest_packet: usize,
    payload: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(netns: &Netns, links: Links) -> Result<Self> {
        let socket = netns
            .run(|| packet_socket(links))?
            .context("open a packet socket between the nodes")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self {
            stop: Stop(stop),
            reader: thread::spawn(move || record(socket, &stopped)),
        })
    }

    /// Ends the capture; what was sent before this call is in the answer.
    pub fn finish(self) -> Result<Recording> {
        drop(self.stop);
        self.reader
            .join()
            .map_err(|_| anyhow!("the capture panicked"))?
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Recording {
    /// How many packets went to or came from `port`.
    pub fn packets_of_port(&self, port: u16) -> usize {
        let flows = self.flows.iter();
        flows
            .filter(|(flow, _)| flow.from.port() == port || flow.to.port() == port)
            .map(|(_, traffic)| traffic.packets)
            .sum()
    }

    /// The length of the longest packet from `address`. Packets that a network card sends are as long as on
    /// the wire; those that it receives may be several in one.
    pub fn longest_packet_from(&self, address: IpAddr) -> usize {
        let flows = self.flows.iter();
        let sent = flows.filter(|(flow, _)| flow.from.ip() == address);
        let longest = sent.map(|(_, traffic)| traffic.longest_packet).max();
        longest.unwrap_or_default()
    }

    /// The flows that carried `marker` in clear.
    pub fn flows_with(&self, marker: &str) -> Vec<Flow> {
        let flows = self.flows.iter();
        flows
            .filter(|(_, traffic)| contains(&traffic.payload, marker.as_bytes()))
            .map(|(flow, _)| *flow)
            .collect()
    }

    fn add(&mut self, frame: &[u8]) {
        let Some((flow, payload)) = parse(frame) else {
            return;
        };
        let traffic = self.flows.entry(flow).or_default();
        traffic.packets += 1;
        traffic.longest_packet = traffic.longest_packet.max(frame.len() - ETHERNET);
        traffic.payload.extend_from_slice(payload);
    }
}

fn packet_socket(links: Links) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)?;
    socket.set_read_timeout(Some(TICK))?;
    let link = match links {
        Links::All => {
            set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
            0
        }
        Links::Only(link) => if_nametoindex(link)?,
    };
    listen_on(&socket, link)?;
    Ok(socket)
}

fn record(mut socket: Socket, stop: &AtomicBool) -> Result<Recording> {
    let mut recording = Recording::default();
    let mut frame = vec![0; FRAME];
    loop {
        // Read before the socket is found empty, so that nothing sent earlier is missed.
        let stopping = stop.load(Ordering::Acquire);
        match socket.read(&mut frame) {
            Ok(length) => recording.add(&frame[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && stopping => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("capture packets"),
        }
    }
    let dropped = dropped_packets(&socket)?;
    ensure!(dropped == 0, "the capture missed {dropped} packets");
    Ok(recording)
}

/// The flow and the payload of an Ethernet frame with TCP or UDP in it.
fn parse(frame: &[u8]) -> Option<(Flow, &[u8])> {
    let packet = frame.get(ETHERNET..)?;
    let (protocol, source, target, segment) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => parse_v4(packet)?,
        [0x86, 0xdd] => parse_v6(packet)?,
        _ => return None,
    };
    let header = match i32::from(protocol) {
        libc::IPPROTO_TCP => usize::from(segment.get(12)? >> 4) * 4,
        libc::IPPROTO_UDP => 8,
        _ => return None,
    };
    let port = |at: usize| {
        Some(u16::from_be_bytes(
            segment.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let flow = Flow {
        protocol,
        from: SocketAddr::new(source, port(0)?),
        to: SocketAddr::new(target, port(2)?),
    };
    Some((flow, segment.get(header..)?))
}

fn parse_v4(packet: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    // Ethernet pads short packets; a length of 0 is a packet too long for the field.
    let end = if length == 0 { packet.len() } else { length };
    Some((
        *packet.get(9)?,
        address(12)?,
        address(16)?,
        packet.get(header..end)?,
    ))
}

fn parse_v6(packet: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    const HEADER: usize = 40;
    let address = |at: usize| {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    Some((
        *packet.get(6)?,
        address(8)?,
        address(24)?,
        packet.get(HEADER..)?,
    ))
}

fn contains(payload: &[u8], marker: &[u8]) -> bool {
    payload.windows(marker.len()).any(|window| window == marker)
}

fn set_packet_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: `value` lives through the call, and `length` is its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(())
}

/// From now on the socket gets the packets of every protocol that cross a link, of all links if it is 0.
fn listen_on(socket: &Socket, link: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    address.sll_ifindex = i32::try_from(link).unwrap_or_default();
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: `address` lives through the call, and `length` is its size.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    nix::errno::Errno::result(done)?;
    Ok(())
}

/// How many packets the kernel had no room for.
fn dropped_packets(socket: &Socket) -> io::Result<u32> {
    use std::os::fd::AsRawFd;
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to `statistics`, which is that long.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(statistics.tp_drops)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tcp_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        let length = u16::try_from(40 + payload.len()).unwrap();
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x1f, 0x90, 0x00, 0x50]);
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn finds_a_marker_that_two_packets_share() {
        let mut recording = Recording::default();
        recording.add(&tcp_frame(b"...mar"));
        recording.add(&tcp_frame(b"ker..."));
        assert_eq!(recording.flows_with("marker").len(), 1);
        assert_eq!(recording.flows_with("other"), []);
        assert_eq!(recording.packets_of_port(80), 2);
    }

    #[test]
    fn leaves_out_the_padding_of_short_frames() {
        let mut frame = tcp_frame(b"");
        frame.extend(b"padding");
        let mut recording = Recording::default();
        recording.add(&frame);
        assert_eq!(recording.flows_with("padding"), []);
    }
}
