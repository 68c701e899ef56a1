//! HBONE: a TCP connection as one CONNECT stream of HTTP/2 over mutual TLS.

pub mod baggage;
pub mod client;
pub mod forwarded;
pub mod headers;
mod keepalive;
pub mod server;
mod transport;

/// One stream may have this much in flight.
const STREAM_WINDOW: u32 = 4 << 20;

/// Larger than a stream's, or one slow reader would stop all the others.
const CONNECTION_WINDOW: u32 = 16 << 20;

const MAX_FRAME: u32 = 1 << 20;
const CLIENT_MAX_HEADER_LIST: u32 = 16 << 10;
const SERVER_MAX_HEADER_LIST: u32 = 64 << 10;
const SERVER_MAX_STREAMS: u32 = 200;

/// What tiny DATA frames may cost before h2 ends the connection, in its own unit (256 less the
/// frame's length). The relay takes frames out of h2 at once, slow reader or not, so that only
/// those that arrive between two polls count; 64 MiB is a quarter of a million of them.
const DATA_FRAME_BUDGET: usize = 64 << 20;
