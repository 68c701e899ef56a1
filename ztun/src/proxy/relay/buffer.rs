//! A read buffer that grows with the traffic and costs nothing while there is none.

use bytes::{Bytes, BytesMut};

const SMALLEST: usize = 4 * 1024;
const LARGEST: usize = 256 * 1024;

#[derive(Debug)]
pub struct ReadBuffer {
    bytes: BytesMut,
    size: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self {
            bytes: BytesMut::new(),
            size: SMALLEST,
        }
    }
}

impl ReadBuffer {
    /// How much the next read should ask for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Room for up to `limit` bytes.
    pub fn room(&mut self, limit: usize) -> &mut BytesMut {
        self.bytes.reserve(self.size.min(limit));
        &mut self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What was read since the last call.
    pub fn take(&mut self) -> Bytes {
        let taken = self.bytes.split().freeze();
        if taken.len() >= self.size {
            self.size = (self.size * 4).min(LARGEST);
        } else if taken.len() < self.size / 8 {
            self.size = (self.size / 2).max(SMALLEST);
        }
        taken
    }

    /// Gives the memory back: nothing is there to read.
    pub fn release(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut ReadBuffer, bytes: usize) {
        buffer.room(usize::MAX).extend_from_slice(&vec![0; bytes]);
        assert_eq!(buffer.take().len(), bytes);
    }

    #[test]
    fn a_stream_that_fills_the_buffer_gets_a_larger_one_up_to_the_limit() {
        let mut buffer = ReadBuffer::default();
        for _ in 0..10 {
            let size = buffer.size();
            read(&mut buffer, size);
        }
        assert_eq!(buffer.size(), LARGEST);
    }

    #[test]
    fn a_stream_of_small_messages_shrinks_it_again() {
        let mut buffer = ReadBuffer::default();
        let size = buffer.size();
        read(&mut buffer, size);
        assert!(buffer.size() > SMALLEST);
        for _ in 0..10 {
            read(&mut buffer, 1);
        }
        assert_eq!(buffer.size(), SMALLEST);
    }

    #[test]
    fn an_idle_stream_holds_no_memory() {
        let mut buffer = ReadBuffer::default();
        read(&mut buffer, 1);
        buffer.release();
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
