//! The process in each of the harness's pods: makes sockets on request. See `ztun_tests::sockets`.

use std::{env, io, os::fd::AsRawFd};

use ztun_tests::{sockets, users};

fn main() -> io::Result<()> {
    users::prepare(env::args().skip(1))?;
    sockets::serve(io::stdin().as_raw_fd())
}
