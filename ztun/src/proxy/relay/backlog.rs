//! What came out of a tunnel and waits for a slow application.
//!
//! HTTP/2 keeps each DATA frame that nobody took as an entry of its own, so that a peer's tiny
//! writes cost many times their size, and h2 ends the whole connection over it. Here small frames
//! are joined. The stream's window bounds the backlog: capacity is released only when its bytes
//! are written.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Frames below this are copied together.
const SMALL: usize = 4 * 1024;
const SLICES: usize = 64;

#[derive(Debug, Default)]
pub struct Backlog {
    chunks: VecDeque<Bytes>,
    /// Newer than every chunk.
    tail: BytesMut,
    len: usize,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        // A single frame needs no copy: it is written before the next one comes.
        if frame.len() < SMALL && !(self.chunks.is_empty() && self.tail.is_empty()) {
            self.tail.extend_from_slice(&frame);
            return;
        }
        self.seal();
        if !frame.is_empty() {
            self.chunks.push_back(frame);
        }
    }

    /// The oldest bytes, in order.
    pub fn slices(&mut self) -> Vec<IoSlice<'_>> {
        self.seal();
        let oldest = self.chunks.iter().take(SLICES);
        oldest.map(|chunk| IoSlice::new(chunk)).collect()
    }

    pub fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(oldest) = self.chunks.front_mut() {
            if written < oldest.len() {
                oldest.advance(written);
                return;
            }
            written -= oldest.len();
            self.chunks.pop_front();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_out_in_the_order_in_which_they_went_in(
            frames in proptest::collection::vec(0_usize..10_000, 0..20),
            writes in proptest::collection::vec(1_usize..20_000, 1..20),
        ) {
            let mut backlog = Backlog::default();
            let mut expected = Vec::new();
            let mut written = Vec::new();
            let mut writes = writes.iter().cycle();
            for (i, length) in frames.iter().enumerate() {
                let frame: Vec<u8> = (0..*length).map(|j| ((i * 31 + j) % 251).to_le_bytes()[0]).collect();
                expected.extend_from_slice(&frame);
                backlog.push(frame.into());
                if i % 3 == 0 {
                    write(&mut backlog, *writes.next().unwrap(), &mut written);
                }
            }
            while !backlog.is_empty() {
                write(&mut backlog, *writes.next().unwrap(), &mut written);
            }
            prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn many_tiny_frames_share_chunks() {
        let mut backlog = Backlog::default();
        for _ in 0..100_000 {
            backlog.push(Bytes::from_static(b"tiny"));
        }
        assert_eq!(backlog.len, 400_000);
        assert!(backlog.slices().len() <= 2);
    }

    fn write(backlog: &mut Backlog, limit: usize, written: &mut Vec<u8>) {
        let all = backlog
            .slices()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect::<Vec<u8>>();
        let n = all.len().min(limit);
        written.extend_from_slice(&all[..n]);
        backlog.advance(n);
    }
}
