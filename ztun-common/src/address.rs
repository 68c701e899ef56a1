use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The third word of a v4-mapped address, as it lies in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An IP address as the kernel programs compare it: 16 bytes, IPv4 in its v4-mapped form.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Network byte order, word by word as the kernel's contexts hold it.
    words: [u32; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Family {
    V4 = 0,
    V6 = 1,
}

impl Address {
    /// From a context's IPv4 field (network byte order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// From a context's IPv6 field (network byte order); v4-mapped addresses stay as they are.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The bytes as they lie in a map's key.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The family that this address's packets have on the wire: a v4-mapped address is IPv4.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// Whether connecting to it never leaves the namespace: 127.0.0.0/8 and `::1`, and the
    /// unspecified addresses, which `connect()` takes for loopback.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words;
        match self.family() {
            Family::V4 => u32::from_be(d) >> 24 == 127 || d == 0,
            Family::V6 => (a | b | c) == 0 && u32::from_be(d) <= 1,
        }
    }

    /// Whether it is in `fe80::/10`, where the route depends on the interface and not on a rule.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        u32::from_be(self.words[0]) >> 22 == 0xfe80 >> 6
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(ip.octets().as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Self { words }
    }
}

impl From<[u8; 16]> for Address {
    /// From a map's key or value.
    fn from(bytes: [u8; 16]) -> Self {
        Self::from(Ipv6Addr::from(bytes))
    }
}

impl From<Address> for IpAddr {
    /// A v4-mapped address is IPv4.
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.to_bytes()).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn loopback_and_unspecified_addresses_of_both_families_stay_inside() {
        for inside in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
        ] {
            assert!(address(inside).is_loopback(), "{inside}");
        }
        for outside in [
            "10.0.0.1",
            "128.0.0.1",
            "0.0.0.1",
            "::2",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
        ] {
            assert!(!address(outside).is_loopback(), "{outside}");
        }
    }

    #[test]
    fn link_local_is_fe80_slash_10_and_nothing_beside_it() {
        for local in ["fe80::1", "febf:ffff::1"] {
            assert!(address(local).is_link_local_v6(), "{local}");
        }
        for other in ["fe7f::1", "fec0::1", "169.254.0.1", "fd00::1", "::1"] {
            assert!(!address(other).is_link_local_v6(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_v4_address_and_its_mapped_form_are_one_key(ip: Ipv4Addr) {
            let mapped = Address::from(ip.to_ipv6_mapped());
            prop_assert_eq!(Address::from(ip), mapped);
            prop_assert_eq!(mapped.family(), Family::V4);
        }

        #[test]
        fn an_address_comes_back_from_a_map_as_it_went_in(ip: IpAddr) {
            let read = Address::from(Address::from(ip).to_bytes());
            prop_assert_eq!(IpAddr::from(read), ip.to_canonical());
        }

        #[test]
        fn a_key_is_the_address_in_network_order(ip: Ipv6Addr) {
            prop_assert_eq!(Address::from(ip).to_bytes(), ip.octets());
        }

        #[test]
        fn loopback_means_what_the_standard_library_means(ip: Ipv4Addr) {
            prop_assert_eq!(
                Address::from(ip).is_loopback(),
                ip.is_loopback() || ip.is_unspecified()
            );
        }

        #[test]
        fn link_local_means_what_the_standard_library_means(ip: Ipv6Addr) {
            prop_assert_eq!(
                Address::from(ip).is_link_local_v6(),
                ip.is_unicast_link_local()
            );
        }
    }
}
