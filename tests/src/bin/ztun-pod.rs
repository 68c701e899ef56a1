//! The process in each of the harness's pods: makes sockets on request. See `ztun_tests::sockets`.

use std::{env, io, os::fd::AsRawFd};

use ztun_tests::users;

fn main() -> io::Result<()> {
    users::serve(env::args().skip(1), io::stdin().as_raw_fd())
}
