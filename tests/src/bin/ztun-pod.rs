//! The process in each of the harness's pods: makes sockets on request. See `ztun_tests::sockets`.

use std::{io, os::fd::AsRawFd};

fn main() -> io::Result<()> {
    ztun_tests::sockets::serve(io::stdin().as_raw_fd())
}
