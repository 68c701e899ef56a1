//! What an operator sees of the data path: metrics, the access log, the connections that are open.

pub mod access_log;
pub mod connections;
pub mod flow;
pub mod labels;
pub mod metrics;
pub mod rate_limit;

pub use connections::{ConnectionStatus, Connections, OpenConnection, PartyStatus};
pub use flow::{Direction, Flow, Party, ResponseFlag, Security};
pub use metrics::Metrics;
