//! A connection between two daemons: whole messages with descriptors, and a limit on each wait.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, bind, connect, listen, recvmsg, sendmsg, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// A message describes one pod, or the node's sockets.
const MAX_MESSAGE: usize = 64 << 10;
/// A pod has six listeners.
const MAX_DESCRIPTORS: usize = 32;
/// One successor is enough.
const BACKLOG: i32 = 16;

#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub uid: u32,
    /// 0 for one in a PID namespace out of sight.
    pub pid: i32,
}

impl Channel {
    /// Connects to the daemon that listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket(SocketFlags::CLOEXEC)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// `socket` is accepted from what [`listen_at`] made.
    pub fn accepted(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// For one that has connected, this is whoever called listen(2).
    pub fn peer(&self) -> io::Result<Peer> {
        let peer = getsockopt(&self.0, PeerCredentials)?;
        Ok(Peer {
            uid: peer.uid(),
            pid: peer.pid(),
        })
    }

    /// How long each message may take from now on, in both directions.
    pub fn set_limit(&self, limit: Duration) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(limit))?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, Some(limit))?)
    }

    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fits =
            descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        if !fits || text.len() > MAX_MESSAGE {
            return Err(io::Error::other("a message is too long"));
        }
        // A message goes as a whole or not at all.
        sendmsg(
            &self.0,
            &[IoSlice::new(&text)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// `UnexpectedEof` when the other end is gone, `WouldBlock` when it said nothing in time.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let descriptors = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::Error::other(
                "a message was cut off; is the limit of open files reached?",
            ));
        }
        Ok((
            serde_json::from_slice(&text[..received.bytes])?,
            descriptors,
        ))
    }
}

/// Whether nobody listens there.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen_again(&socket)?;
    Ok(socket)
}

/// Makes this process the one that whoever connects sees; what waits in the queue stays.
pub fn listen_again(socket: &impl AsFd) -> io::Result<()> {
    Ok(listen(socket, BACKLOG)?)
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs::File, io::Read as _, io::Seek as _, io::Write as _};

    use rustix::net::accept;

    use super::*;

    fn pair(directory: &Path) -> (Channel, Channel) {
        let path = directory.join("socket");
        let listener = listen_at(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        (client, Channel::accepted(accept(&listener).unwrap()))
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let (client, server) = pair(directory.path());
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(directory.path().join("file"))
            .unwrap();
        file.write_all(b"passed").unwrap();
        client.send(&"first", &[file.as_fd()]).unwrap();
        client.send(&"second", &[]).unwrap();

        let (text, mut descriptors) = server.receive::<String>().unwrap();
        assert_eq!(text, "first");
        let mut passed = File::from(descriptors.remove(0));
        passed.rewind().unwrap();
        let mut content = String::new();
        passed.read_to_string(&mut content).unwrap();
        assert_eq!(content, "passed");
        let (text, descriptors) = server.receive::<String>().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("second", 0));
    }

    #[test]
    fn silence_and_absence_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (client, server) = pair(directory.path());
        client.set_limit(Duration::from_millis(10)).unwrap();
        let silent = client.receive::<String>().unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::WouldBlock);
        drop(server);
        let gone = client.receive::<String>().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
        let absent = Channel::connect(&directory.path().join("none")).unwrap_err();
        assert!(is_absent(&absent));
    }

    #[test]
    fn the_peer_is_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (client, server) = pair(directory.path());
        let own = i32::try_from(std::process::id()).unwrap();
        for end in [client, server] {
            let peer = end.peer().unwrap();
            assert_eq!(peer.pid, own);
        }
    }
}
