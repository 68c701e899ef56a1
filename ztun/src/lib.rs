//! The daemon's parts, as a library for its binary, its tests and its tools.

pub mod cert;
pub mod mesh;
pub mod observe;
pub mod proxy;
pub mod redirect;
