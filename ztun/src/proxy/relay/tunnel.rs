//! TCP to one HTTP/2 stream and back, under HTTP/2's flow control.

use std::{
    future::poll_fn,
    io,
    task::{Poll, ready},
};

use bytes::Bytes;
use futures_util::FutureExt;
use h2::{Reason, RecvStream, SendStream};
use tokio::{
    net::TcpStream,
    task::{coop, yield_now},
};

use super::{Meter, Way, backlog::Backlog, buffer::ReadBuffer, reset, reset_by_peer};
use crate::proxy::{
    error::{ProxyError, Side},
    hbone::client::Tunnel,
    socket,
};

/// Reads below this are joined with what follows at once: h2 charges peers for tiny frames.
const SMALL_READ: usize = 256;

/// Relays until both directions are finished or one end breaks. `side` is where `stream` is.
pub async fn relay_tunnel(
    stream: TcpStream,
    side: Side,
    tunnel: Tunnel,
    meter: &Meter,
) -> Result<(), ProxyError> {
    let Tunnel {
        mut send,
        recv,
        guard: _guard,
    } = tunnel;
    let (into_tunnel, out_of_tunnel) = match side {
        Side::Downstream => (Way::ToDestination, Way::ToSource),
        Side::Upstream => (Way::ToSource, Way::ToDestination),
    };
    let copies = async {
        // In this order, so that bytes before a reset are delivered.
        tokio::try_join!(
            copy_out(recv, &stream, out_of_tunnel, meter),
            copy_in(&stream, &mut send, into_tunnel, meter),
        )
    };
    let result = tokio::select! {
        biased;
        result = copies => result.map(drop),
        error = reset_by_peer(&stream, side) => Err(error),
        error = meter.closed() => Err(error),
    };
    let result = result.and_then(|()| socket::finish(&stream).map_err(|e| reset(side, &e)));
    if result.is_err() {
        // RFC 9113, section 8.5: what a reset of the TCP connection becomes.
        send.send_reset(Reason::CONNECT_ERROR);
    }
    result
}

/// From the application into the tunnel.
async fn copy_in(
    stream: &TcpStream,
    send: &mut SendStream<Bytes>,
    way: Way,
    meter: &Meter,
) -> Result<(), ProxyError> {
    let tcp_failed = |error: io::Error| reset(way.from(), &error);
    let tunnel_failed = |error: h2::Error| reset(way.to(), &error);
    let mut buffer = ReadBuffer::default();
    let mut eof = false;
    while !eof {
        tokio::select! {
            biased;
            ready = stream.readable() => ready.map_err(tcp_failed)?,
            reason = poll_fn(|cx| send.poll_reset(cx)) => return ended(reason, way),
        }
        // Asked for only now: an idle stream must not hold back the connection's window.
        let Some(capacity) = capacity(send, buffer.size()).await.map_err(tunnel_failed)? else {
            return ended(poll_fn(|cx| send.poll_reset(cx)).await, way);
        };
        eof = read(stream, &mut buffer, capacity).map_err(tcp_failed)?;
        if !eof && (1..SMALL_READ).contains(&buffer.len()) {
            yield_now().await;
            let rest = capacity.saturating_sub(buffer.len());
            eof = rest > 0 && read(stream, &mut buffer, rest).map_err(tcp_failed)?;
        }
        let chunk = buffer.take();
        let length = chunk.len();
        if length > 0 {
            send.send_data(chunk, false).map_err(tunnel_failed)?;
            meter.count(way, length);
        } else {
            buffer.release();
        }
        send.reserve_capacity(0);
        coop::consume_budget().await;
    }
    match send.send_data(Bytes::new(), true) {
        // The peer has ended the stream in the meantime; the other direction knows how.
        Err(error) if error.is_reset() || error.is_io() => Err(tunnel_failed(error)),
        _ => Ok(()),
    }
}

/// Reads at most `limit` bytes; true at the end of the stream.
fn read(stream: &TcpStream, buffer: &mut ReadBuffer, limit: usize) -> io::Result<bool> {
    let room = bytes::BufMut::limit(buffer.room(limit), limit);
    let mut room = room;
    match stream.try_read_buf(&mut room) {
        Ok(0) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until some of `wanted` may be sent; `None` when the stream takes no more.
async fn capacity(send: &mut SendStream<Bytes>, wanted: usize) -> Result<Option<usize>, h2::Error> {
    send.reserve_capacity(wanted);
    poll_fn(|cx| {
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(None)),
            }
        }
        Poll::Ready(Ok(Some(send.capacity())))
    })
    .await
}

/// What a reset stream means to the direction that sends.
fn ended(reason: Result<Reason, h2::Error>, way: Way) -> Result<(), ProxyError> {
    match reason {
        // The peer is done with the stream; what it sent before still counts.
        Ok(Reason::NO_ERROR | Reason::CANCEL) => Ok(()),
        Ok(reason) => Err(reset(way.to(), &reason)),
        Err(error) => Err(reset(way.to(), &error)),
    }
}

/// Out of the tunnel to the application.
async fn copy_out(
    mut recv: RecvStream,
    stream: &TcpStream,
    way: Way,
    meter: &Meter,
) -> Result<(), ProxyError> {
    let tcp_failed = |error: io::Error| reset(way.to(), &error);
    let mut backlog = Backlog::default();
    let mut open = true;
    while open || !backlog.is_empty() {
        if backlog.is_empty() {
            let frame = recv.data().await;
            open = take(frame, &mut backlog, way)?;
        }
        while open && let Some(frame) = recv.data().now_or_never() {
            open = take(frame, &mut backlog, way)?;
        }
        if backlog.is_empty() {
            continue;
        }
        match stream.try_write_vectored(&backlog.slices()) {
            Ok(written) => {
                backlog.advance(written);
                meter.count(way, written);
                // Fails only if the stream is over, and then there is no window to return.
                let _ = recv.flow_control().release_capacity(written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    ready = stream.writable() => ready.map_err(tcp_failed)?,
                    frame = recv.data(), if open => open = take(frame, &mut backlog, way)?,
                }
            }
            Err(error) => return Err(tcp_failed(error)),
        }
        coop::consume_budget().await;
    }
    socket::shutdown_write(stream).map_err(tcp_failed)
}

/// Stores one frame; false at the end of the stream.
fn take(
    frame: Option<Result<Bytes, h2::Error>>,
    backlog: &mut Backlog,
    way: Way,
) -> Result<bool, ProxyError> {
    match frame {
        Some(Ok(frame)) => {
            backlog.push(frame);
            Ok(true)
        }
        None => Ok(false),
        Some(Err(error)) if ends_cleanly(&error) => Ok(false),
        Some(Err(error)) => Err(reset(way.from(), &error)),
    }
}

/// The peer's implementation drops a finished stream with these.
fn ends_cleanly(error: &h2::Error) -> bool {
    error.is_reset()
        && error.is_remote()
        && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}
