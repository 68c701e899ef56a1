//! Trying whether what a pod connects arrives at this daemon.

use std::{
    io::{self, Read as _},
    net::TcpStream,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use ztun_common::{Family, MARK};

use crate::proxy::self_test::{ANSWER, DESTINATION_V4, DESTINATION_V6, PATIENCE};

/// Connects from the calling thread's namespace as a captured connection of the pod does, but for
/// the program that gives it the mark: that one is on the pod's cgroup, where this thread is not.
pub fn connect(family: Family) -> io::Result<()> {
    let (domain, destination) = match family {
        Family::V4 => (Domain::IPV4, DESTINATION_V4),
        Family::V6 => (Domain::IPV6, DESTINATION_V6),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_mark(MARK)?;
    // Nothing of it is to stay in the pod's tables.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&destination.into(), PATIENCE)?;
    let mut answer = [0; ANSWER.len()];
    TcpStream::from(socket).read_exact(&mut answer)?;
    if answer == ANSWER {
        Ok(())
    } else {
        Err(io::Error::other("another program answered it"))
    }
}
