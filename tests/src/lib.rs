//! The test harness: nodes and pods from network namespaces and cgroups, with a daemon on every node.
//!
//! ```no_run
//! use ztun_tests::{Family, Mesh, PodSpec, scenario};
//!
//! let mesh = Mesh::builder()
//!     .nodes(["a", "b"])
//!     .pod(PodSpec::new("shop/cart").on("a"))
//!     .pod(PodSpec::new("shop/stock").on("b"));
//! scenario(mesh, async |mesh| {
//!     let echo = mesh.pod("shop/stock").echo(8080)?;
//!     let stream = mesh.pod("shop/cart").connect(mesh.pod("shop/stock").at(Family::V4, 8080)).await?;
//!     assert_eq!(echo.peers(), [stream.local_addr()?]);
//!     Ok(())
//! });
//! ```

mod addresses;
mod addressing;
pub mod app;
pub mod authority;
pub mod bpf;
pub mod bulk;
pub mod ca;
pub mod capture;
pub mod cgroup;
pub mod cni;
pub mod daemon;
pub mod eager;
pub mod effort;
pub mod envoy;
mod fabric;
pub mod fake_ca;
pub mod far;
pub mod hanging;
pub mod io_uring;
pub mod kernel;
pub mod manifest;
pub mod memory;
pub mod mesh;
pub mod namespace;
pub mod netlink;
pub mod node;
pub mod other_owner;
pub mod pair;
pub mod pod;
pub mod process;
pub mod rogue;
pub mod run;
mod sabotage;
pub mod scenario;
pub mod servers;
pub mod service;
pub mod sockets;
pub mod users;
pub mod wait;

pub use capture::Capture;
pub use hanging::Stage;
pub use kernel::Feature;
pub use manifest::{MtlsMode, ServiceSpec};
pub use mesh::{Mesh, MeshBuilder};
pub use node::Node;
pub use pair::{Other, two_machines};
pub use pod::{Enrolment, Family, Link, Pod, PodSpec, Users};
pub use process::Process;
pub use scenario::{scenario, topology};
pub use service::Service;
