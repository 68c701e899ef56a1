//! Much data, made up on one side and recognised on the other.

use std::{
    hash::{DefaultHasher, Hasher},
    io,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const CHUNK: usize = 64 << 10;

/// Many bytes, in whole chunks of 64 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    seed: u64,
    total: usize,
}

/// The number of bytes, and the hash of all.
pub type Checksum = (usize, u64);

impl Bulk {
    pub const fn new(seed: u64, total: usize) -> Self {
        Self { seed, total }
    }

    /// Sends these bytes while it receives the other side's, and answers the checksum of those.
    pub async fn swap(self, stream: TcpStream) -> io::Result<Checksum> {
        let (read, write) = stream.into_split();
        let (sent, received) = tokio::join!(self.send(write), receive(read));
        sent?;
        received
    }

    pub fn checksum(self) -> Checksum {
        let mut hasher = DefaultHasher::new();
        for chunk in self.chunks() {
            hasher.write(&chunk);
        }
        (self.total, hasher.finish())
    }

    async fn send(self, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
        for chunk in self.chunks() {
            stream.write_all(&chunk).await?;
        }
        stream.shutdown().await
    }

    /// Bytes without a pattern that a swap of two blocks would keep (Knuth's MMIX generator).
    fn chunks(self) -> impl Iterator<Item = Vec<u8>> {
        let mut state = self.seed;
        (0..self.total / CHUNK).map(move |_| {
            let words = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()
            });
            words.take(CHUNK / 8).flatten().collect()
        })
    }
}

async fn receive(mut stream: impl AsyncRead + Unpin) -> io::Result<Checksum> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    let mut hasher = DefaultHasher::new();
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok((total, hasher.finish()));
        }
        total += length;
        hasher.write(&buffer[..length]);
    }
}
