//! The daemon's parts, as a library for its binary, its tests and its tools.

pub mod ca;
pub mod cert;
pub mod cli;
pub mod config;
pub mod mesh;
pub mod migrate;
mod nearest;
pub mod node;
pub mod observe;
pub mod proto;
pub mod proxy;
pub mod redirect;
pub mod source;
