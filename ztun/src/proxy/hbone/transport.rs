//! The TCP connection under a tunnel: reset when it ends before its streams did.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};

use crate::proxy::socket;

/// Streams of one connection that are not finished.
#[derive(Clone, Debug, Default)]
pub struct OpenStreams(Arc<AtomicUsize>);

/// Counts as one open stream.
#[derive(Debug)]
pub struct StreamGuard(OpenStreams);

#[derive(Debug)]
pub struct Transport {
    tcp: TcpStream,
    streams: OpenStreams,
}

/// Says when the first bytes came (with HTTP/2 these are the peer's SETTINGS), or why none will: h2 keeps
/// no more of an IO error than its text.
#[derive(Debug)]
pub struct FirstRead<S> {
    inner: S,
    seen: Option<oneshot::Sender<io::Result<()>>>,
}

pub type Spoken = oneshot::Receiver<io::Result<()>>;

impl OpenStreams {
    pub fn open(&self) -> StreamGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        StreamGuard(self.clone())
    }

    fn none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Transport {
    /// `tcp` is prepared already (see [`socket::prepare`]).
    pub fn new(tcp: TcpStream, streams: OpenStreams) -> Self {
        Self { tcp, streams }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if self.streams.none() {
            // If it fails, the peer sees a reset of a connection that it does not use.
            let _ = socket::finish(&self.tcp);
        }
    }
}

impl<S> FirstRead<S> {
    pub fn new(inner: S) -> (Self, Spoken) {
        let (sender, seen) = oneshot::channel();
        let seen_by = Some(sender);
        (
            Self {
                inner,
                seen: seen_by,
            },
            seen,
        )
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstRead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if read.is_ok() && buf.filled().len() == before {
            return Poll::Ready(read);
        }
        let Some(seen) = self.seen.take() else {
            return Poll::Ready(read);
        };
        let copy = match &read {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody waits any more when the set-up was given up.
        let _ = seen.send(read);
        Poll::Ready(copy)
    }
}

impl<S: AsyncRead + Unpin> FirstRead<S> {
    /// A peer that refuses our certificate says so and closes, and a write may find it closed before
    /// anybody has read what it said. So a failed write ends only when the read has ended too.
    fn hear<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.seen.is_none() || !matches!(written, Poll::Ready(Err(_))) {
            return written;
        }
        let mut byte = [0];
        let read = Pin::new(self).poll_read(cx, &mut ReadBuf::new(&mut byte));
        if read.is_pending() {
            return Poll::Pending;
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FirstRead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.hear(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.hear(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.hear(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::{
        FutureExt,
        future::{join, poll_fn},
    };
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A connection that the peer has closed; what it said before arrives late.
    #[derive(Default)]
    struct Closed {
        arrived: bool,
    }

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.arrived {
                return Poll::Ready(Err(io::Error::other("the alert")));
            }
            self.arrived = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_peer_said_before_it_closed_is_heard_though_the_write_fails_first() {
        let (mut stream, spoken) = FirstRead::new(Closed::default());
        let write = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"SETTINGS"));
        let (written, spoken) = join(write, spoken).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(spoken.unwrap().unwrap_err().to_string(), "the alert");
        // From then on errors are the connection's own.
        let read = stream.read_u8().now_or_never().unwrap();
        assert_eq!(read.unwrap_err().to_string(), "the alert");
    }
}
