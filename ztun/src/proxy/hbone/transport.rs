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

use crate::{cert::tls::tls_error, proxy::socket};

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

/// Says when the first bytes came: with HTTP/2 these are the peer's SETTINGS. Or which TLS error came
/// instead, of which HTTP/2 would keep the text alone.
#[derive(Debug)]
pub struct FirstRead<S> {
    inner: S,
    seen: Option<oneshot::Sender<Seen>>,
    /// A write's, held back until what the peer said last is read.
    failed: Option<io::Error>,
}

pub type Seen = Result<(), rustls::Error>;

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
    pub fn new(inner: S) -> (Self, oneshot::Receiver<Seen>) {
        let (sender, seen) = oneshot::channel();
        let seen_by = Some(sender);
        (
            Self {
                inner,
                seen: seen_by,
                failed: None,
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

impl<S: AsyncRead + Unpin> FirstRead<S> {
    /// A peer that refuses sends its alert and closes. Who is still writing learns of the end first,
    /// and the alert, which says why, waits to be read: the write fails when it has been.
    fn poll_written<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match self.failed.take() {
            Some(error) => error,
            None => match ready!(write(Pin::new(&mut self.inner), cx)) {
                Err(error) => error,
                written => return Poll::Ready(written),
            },
        };
        let mut bytes = [0; 256];
        while self.seen.is_some() {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *self).poll_read(cx, &mut buf) {
                // The connection is over, so this won't be for long.
                Poll::Pending => {
                    self.failed = Some(error);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Err(error))
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
        let first = match &read {
            Ok(()) => (buf.filled().len() > before).then_some(Ok(())),
            Err(error) => tls_error(error).map(|error| Err(error.clone())),
        };
        if let Some(first) = first
            && let Some(seen) = self.seen.take()
        {
            // Nobody waits any more when the set-up was given up.
            let _ = seen.send(first);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FirstRead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |inner, cx| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |inner, cx| inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls::{AlertDescription, Error};
    use tokio::io::AsyncWriteExt;

    use super::*;

    const ALERT: Error = Error::AlertReceived(AlertDescription::CertificateRevoked);

    /// A peer that has said why, and closed.
    struct Closed;

    impl AsyncRead for Closed {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, ALERT)))
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
    async fn what_the_peer_said_is_known_to_who_only_wrote() {
        let (mut stream, mut seen) = FirstRead::new(Closed);
        let error = stream.write_all(b"PRI *").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(seen.try_recv().unwrap(), Err(ALERT));
    }
}
