//! One line for each connection, written when it is over. Fields are the peer's.

use std::{fmt, time::Duration};

use super::flow::{Direction, Flow, Party};

/// Bytes that went each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    pub to_destination: u64,
    pub to_source: u64,
}

/// What happened to a connection besides its bytes.
#[derive(Clone, Copy, Default)]
pub struct Remarks<'a> {
    pub error: Option<&'a dyn fmt::Display>,
    /// What policies say that decide nothing: AUDIT and dry-run.
    pub audit: Option<&'a str>,
    /// How many identical denials were not written since the last one.
    pub suppressed: Option<u64>,
}

pub fn connection_complete(flow: &Flow, bytes: Bytes, duration: Duration, remarks: Remarks<'_>) {
    // Sent and received are those of the application that this proxy stands beside.
    let (bytes_sent, bytes_recv) = match flow.direction {
        Direction::Outbound => (bytes.to_destination, bytes.to_source),
        Direction::Inbound => (bytes.to_source, bytes.to_destination),
    };
    let (source, source_namespace) = name_and_namespace(&flow.source);
    let (destination, destination_namespace) = name_and_namespace(&flow.destination);
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: "access",
                $level,
                src.addr = %flow.source.address,
                src.workload = source,
                src.namespace = source_namespace,
                src.identity = flow.source.identity.as_ref().map(display),
                src.forwarded_for = flow.source.forwarded_for.map(display),
                dst.addr = %flow.destination.address,
                dst.hbone_addr = flow.hbone_address.map(display),
                dst.service = flow.service.as_ref().map(|s| &*s.hostname),
                dst.workload = destination,
                dst.namespace = destination_namespace,
                dst.identity = flow.destination.identity.as_ref().map(display),
                direction = flow.direction.as_str(),
                bytes_sent,
                bytes_recv,
                duration = %format_args!("{}ms", duration.as_millis()),
                audit = remarks.audit,
                suppressed = remarks.suppressed.filter(|count| *count > 0),
                error = remarks.error.map(display),
                "connection complete"
            )
        };
    }
    // The level of an event is part of its static metadata.
    if remarks.error.is_some() {
        line!(tracing::Level::WARN);
    } else {
        line!(tracing::Level::INFO);
    }
}

/// The pod's name; of a workload that only its own word is known of, that of its controller.
fn name_and_namespace(party: &Party) -> (Option<&str>, Option<&str>) {
    if let Some(workload) = &party.workload {
        return (Some(&workload.pod.name), Some(&workload.pod.namespace));
    }
    let claimed = party.claimed.as_deref();
    let name = claimed.map(|claimed| &*claimed.workload_name);
    (
        name.filter(|name| !name.is_empty()),
        claimed.map(|claimed| &*claimed.namespace),
    )
}
