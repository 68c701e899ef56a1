//! Sockets made inside a pod and used outside of it.
//!
//! A socket belongs to the network namespace and the cgroup of the process that creates it, whoever uses it
//! afterwards. So each pod has one small process, `ztun-pod`, that creates sockets on request and hands them
//! over, and tests use them as if they were their own.
#![allow(unsafe_code)]

use std::{
    env, fs, io,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};
use rtnetlink::sys::TokioSocket;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    cgroup::Cgroup,
    namespace::{Netns, confine},
    users::{self, UserNamespace},
};

/// A request is the three arguments of socket(2), an answer the error number or 0.
const REQUEST: usize = 12;

/// The process in a pod that makes its sockets. It ends when this is dropped, or its owner dies.
pub struct SocketMaker {
    channel: Mutex<OwnedFd>,
    process: Child,
    // The process opens it in its own time.
    _users: Option<UserNamespace>,
}

impl SocketMaker {
    /// Starts it as root of `users`, or else as this process's user.
    pub fn start(netns: &Netns, cgroup: &Cgroup, users: Option<UserNamespace>) -> Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let program = program()?;
        let mut command = Command::new(&program);
        command.stdin(Stdio::from(theirs));
        if let Some(users) = &users {
            command.arg(users::BECOME_ROOT_OF).arg(users.path());
        }
        confine(&mut command, netns, cgroup)?;
        let process = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self {
            channel: Mutex::new(ours),
            process,
            _users: users,
        })
    }

    /// Which of the machine's users it runs as.
    pub fn user(&self) -> Result<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let effective = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(effective.context("no Uid")?.parse()?)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Calls socket(2) inside the pod.
    pub fn socket(
        &self,
        domain: Domain,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        let mut request = [0; REQUEST];
        let arguments = [domain.into(), kind.into(), protocol.map_or(0, i32::from)];
        for (bytes, argument) in request.chunks_exact_mut(4).zip(arguments) {
            bytes.copy_from_slice(&argument.to_ne_bytes());
        }
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channel.as_raw_fd();
        sendmsg::<()>(
            channel,
            &[IoSlice::new(&request)],
            &[],
            MsgFlags::empty(),
            None,
        )?;
        receive(channel).map(Socket::from)
    }
}

impl Drop for SocketMaker {
    fn drop(&mut self) {
        // Its cgroup is killed when the mesh goes; a pod that goes alone ends it here.
        let ended = self.process.kill().and_then(|()| self.process.wait());
        debug_assert!(ended.is_ok(), "end a pod's process: {ended:?}");
    }
}

/// The main function of the process in the pod: answers requests until the owner is gone.
pub fn serve(channel: RawFd) -> io::Result<()> {
    let mut request = [0; REQUEST];
    while recv(channel, &mut request, MsgFlags::empty())? == REQUEST {
        let argument = |at: usize| {
            let bytes = [0, 1, 2, 3].map(|byte| request[4 * at + byte]);
            i32::from_ne_bytes(bytes)
        };
        let protocol = (argument(2) != 0).then(|| Protocol::from(argument(2)));
        let made = Socket::new_raw(argument(0).into(), argument(1).into(), protocol);
        let (status, descriptors) = match &made {
            Ok(socket) => (0, vec![socket.as_raw_fd()]),
            Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
        };
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if made.is_ok() { &rights[..] } else { &[] };
        let status = status.to_ne_bytes();
        sendmsg::<()>(
            channel,
            &[IoSlice::new(&status)],
            rights,
            MsgFlags::empty(),
            None,
        )?;
    }
    Ok(())
}

fn receive(channel: RawFd) -> io::Result<OwnedFd> {
    let mut status = [0; 4];
    let mut space = nix::cmsg_space!(RawFd);
    let mut buffers = [IoSliceMut::new(&mut status)];
    let message = recvmsg::<()>(
        channel,
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let length = message.bytes;
    let descriptor = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    if length == 0 {
        return Err(io::Error::other("the pod's process has ended"));
    }
    match (i32::from_ne_bytes(status), descriptor) {
        // SAFETY: the kernel has just installed this descriptor for us, and nobody else owns it.
        (0, Some(descriptor)) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        (0, None) => Err(io::Error::other("the pod's process sent no socket")),
        (error, _) => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A socket of `AF_NETLINK` for requests with the rights of the process that made it.
pub fn netlink(socket: Socket) -> TokioSocket {
    // SAFETY: nobody else owns the descriptor.
    unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}

/// `ztun-pod` is built beside the tests: `target/debug/deps/TEST` and `target/debug/ztun-pod`.
pub(crate) fn program() -> Result<PathBuf> {
    let beside = beside_this_program("ztun-pod")?;
    ensure!(
        beside.exists(),
        "{} is missing: build it with `cargo build -p ztun-tests --bins`",
        beside.display()
    );
    Ok(beside)
}

/// A binary of this workspace, built with the same profile as the running program.
pub fn beside_this_program(name: &str) -> Result<PathBuf> {
    let mut directory = env::current_exe().context("find the running program")?;
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    Ok(directory.join(name))
}
