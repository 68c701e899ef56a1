use crate::Family;

/// The kinds of listener that captured connections are steered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Listener {
    /// Connections that the pod's application opens.
    Outbound = 0,
    /// Connections from outside to the application's ports.
    InboundPlaintext = 1,
    /// Connections from outside to [`HBONE_PORT`](crate::HBONE_PORT).
    InboundHbone = 2,
}

/// A listener's key in a pod's `LISTENERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    index: u32,
}

impl Listener {
    pub const ALL: [Self; 3] = [Self::Outbound, Self::InboundPlaintext, Self::InboundHbone];
}

impl ListenerKey {
    /// How many different keys there are.
    pub const COUNT: u32 = 6;

    #[inline(always)]
    pub const fn new(listener: Listener, family: Family) -> Self {
        Self {
            index: listener as u32 * 2 + family as u32,
        }
    }

    /// The key as user space writes it.
    pub const fn index(self) -> u32 {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_listener_has_a_key_of_its_own() {
        let keys: HashSet<u32> = Listener::ALL
            .into_iter()
            .flat_map(|listener| {
                [Family::V4, Family::V6].map(|family| ListenerKey::new(listener, family).index())
            })
            .collect();
        assert_eq!(keys.len(), ListenerKey::COUNT as usize);
    }
}
