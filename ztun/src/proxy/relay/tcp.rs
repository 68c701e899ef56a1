//! TCP to TCP: passthrough, the same node, and plaintext that comes in.

use std::io;

use tokio::{net::TcpStream, task::coop};

use super::{Meter, Way, buffer::ReadBuffer, reset, reset_by_peer};
use crate::proxy::{
    error::{ProxyError, Side},
    socket,
};

/// Relays until both directions are finished or one end breaks.
pub async fn relay_tcp(
    source: TcpStream,
    destination: TcpStream,
    meter: &Meter,
) -> Result<(), ProxyError> {
    let copies = async {
        tokio::try_join!(
            copy(&source, &destination, Way::ToDestination, meter),
            copy(&destination, &source, Way::ToSource, meter),
        )
    };
    tokio::select! {
        // What was received before a reset is delivered first.
        biased;
        result = copies => result?,
        error = reset_by_peer(&source, Side::Downstream) => return Err(error),
        error = reset_by_peer(&destination, Side::Upstream) => return Err(error),
        error = meter.closed() => return Err(error),
    };
    for (stream, side) in [(&source, Side::Downstream), (&destination, Side::Upstream)] {
        socket::finish(stream).map_err(|error| reset(side, &error))?;
    }
    Ok(())
}

async fn copy(
    reader: &TcpStream,
    writer: &TcpStream,
    way: Way,
    meter: &Meter,
) -> Result<(), ProxyError> {
    let read_failed = |error: io::Error| reset(way.from(), &error);
    let write_failed = |error: io::Error| reset(way.to(), &error);
    let mut buffer = ReadBuffer::default();
    loop {
        match reader.try_read_buf(buffer.room(usize::MAX)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                buffer.release();
                reader.readable().await.map_err(read_failed)?;
                continue;
            }
            Err(error) => return Err(read_failed(error)),
        }
        let chunk = buffer.take();
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match writer.try_write(rest) {
                Ok(written) => {
                    meter.count(way, written);
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    writer.writable().await.map_err(write_failed)?;
                }
                Err(error) => return Err(write_failed(error)),
            }
        }
        coop::consume_budget().await;
    }
    socket::shutdown_write(writer).map_err(write_failed)
}
