//! An application that connects from its first instruction on. See `ztun_tests::eager`.

use std::{env, io};

use ztun_tests::eager;

fn main() -> io::Result<()> {
    eager::connect(env::args().skip(1))
}
