//! What an operator sees: metrics, logs, the connections that are open.

pub mod access_log;
mod claimed;
pub mod connections;
mod denials;
pub mod flow;
pub mod http;
pub mod labels;
mod logging;
pub mod metrics;
pub mod rate_limit;
pub mod recorded;

pub use claimed::ClaimedWorkload;
pub use connections::{ConnectionStatus, Connections, OpenConnection, PartyStatus};
pub use flow::{Direction, Flow, Party, ResponseFlag, Security};
pub use logging::{LogFilter, LogFilterError};
pub use metrics::Metrics;
