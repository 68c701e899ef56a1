use crate::{Address, MARK};

/// One end of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    address: Address,
    /// Host byte order; as wide as the kernel's field, so that a map's key has no padding.
    port: u32,
}

/// A connection that the pod opens, by its two ends: a key in a pod's `REWRITTEN` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    client: Endpoint,
    server: Endpoint,
}

/// A connection of the pod just before its first packet leaves: nothing changes its ends any more.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// What `capture` marked the connection for; nothing if it let it pass, or saw none.
    pub asked: Option<Endpoint>,
    pub server: Endpoint,
    pub mark: u32,
}

/// What becomes of a connection that is about to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It goes where the application asked, or stays in the pod.
    Nothing,
    /// Another program chose another server: the daemon is told of this one.
    Asked(Endpoint),
    /// Another program sent out of the pod what `capture` took for the pod's own: it is marked now.
    Escape,
}

/// Decides what becomes of a connection whose destination may have been changed after `capture`.
#[inline(always)]
pub fn note(opening: &Opening, is_own: impl FnOnce(&Address) -> bool) -> Note {
    let server = &opening.server;
    if server.address.is_loopback() || is_own(&server.address) {
        return Note::Nothing;
    }
    if opening.mark != MARK {
        return Note::Escape;
    }
    match opening.asked {
        Some(asked) if asked != *server => Note::Asked(asked),
        _ => Note::Nothing,
    }
}

impl Endpoint {
    pub const SIZE: usize = size_of::<Self>();

    /// `port` is in host byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port: port as u32,
        }
    }

    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    #[allow(clippy::cast_possible_truncation)] // It was made of one.
    pub const fn port(&self) -> u16 {
        self.port as u16
    }

    /// The bytes as they lie in a map.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (address, port) = bytes.split_at_mut(Self::SIZE - size_of::<u32>());
        address.copy_from_slice(&self.address.to_bytes());
        port.copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }
}

impl Flow {
    pub const SIZE: usize = size_of::<Self>();

    #[inline(always)]
    pub const fn new(client: Endpoint, server: Endpoint) -> Self {
        Self { client, server }
    }

    /// The bytes as they lie in a map's key.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (client, server) = bytes.split_at_mut(Endpoint::SIZE);
        client.copy_from_slice(&self.client.to_bytes());
        server.copy_from_slice(&self.server.to_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use super::*;

    fn end(ip: &str, port: u16) -> Endpoint {
        Endpoint::new(ip.parse::<IpAddr>().unwrap().into(), port)
    }

    fn decide(asked: Option<Endpoint>, server: Endpoint, mark: u32) -> Note {
        let own = Address::from("10.0.0.1".parse::<IpAddr>().unwrap());
        note(
            &Opening {
                asked,
                server,
                mark,
            },
            |ip| *ip == own,
        )
    }

    #[test]
    fn a_service_address_that_became_a_backend_is_noted() {
        let (vip, backend) = (end("10.96.0.1", 80), end("10.0.0.2", 8080));
        assert_eq!(decide(Some(vip), backend, MARK), Note::Asked(vip));
        let (vip, backend) = (end("fd96::1", 80), end("fd00::2", 80));
        assert_eq!(decide(Some(vip), backend, MARK), Note::Asked(vip));
    }

    #[test]
    fn another_port_of_the_same_address_is_noted() {
        let asked = end("10.0.0.2", 80);
        let server = end("10.0.0.2", 8080);
        assert_eq!(decide(Some(asked), server, MARK), Note::Asked(asked));
    }

    #[test]
    fn a_connection_that_goes_where_it_was_asked_to_is_not_noted() {
        let server = end("10.0.0.2", 80);
        assert_eq!(decide(Some(server), server, MARK), Note::Nothing);
        let mapped = end("::ffff:10.0.0.2", 80);
        assert_eq!(decide(Some(mapped), server, MARK), Note::Nothing);
        assert_eq!(decide(None, server, MARK), Note::Nothing);
    }

    #[test]
    fn what_stays_in_the_pod_is_left_alone() {
        let asked = Some(end("10.96.0.1", 80));
        for inside in ["127.0.0.1", "::1", "10.0.0.1"] {
            assert_eq!(decide(asked, end(inside, 80), MARK), Note::Nothing);
            assert_eq!(decide(None, end(inside, 80), 0), Note::Nothing);
        }
    }

    #[test]
    fn what_leaves_the_pod_without_the_mark_gets_it() {
        assert_eq!(decide(None, end("10.0.0.2", 80), 0), Note::Escape);
        let asked = Some(end("10.96.0.1", 80));
        assert_eq!(decide(asked, end("10.0.0.2", 80), 7), Note::Escape);
    }

    #[test]
    fn a_flow_lies_in_a_map_as_client_then_server() {
        let flow = Flow::new(end("10.0.0.1", 40000), end("fd00::2", 80));
        let bytes = flow.to_bytes();
        assert_eq!(bytes[..Endpoint::SIZE], end("10.0.0.1", 40000).to_bytes());
        assert_eq!(bytes[Endpoint::SIZE..], end("fd00::2", 80).to_bytes());
        assert_eq!(bytes[16..20], 40000_u32.to_ne_bytes());
    }
}
