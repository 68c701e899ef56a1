//! Two nodes' proxies in one process, over loopback, with real TLS and HTTP/2 between them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod claims;
mod hanging_peers;
mod lab;
mod lifecycle;
mod pooling;
mod server;
mod streams;
