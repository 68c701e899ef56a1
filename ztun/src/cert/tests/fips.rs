//! What the build feature `fips` asserts.

use crate::cert::{KeyExchange, fips};

const ALL: [KeyExchange; 3] = [
    KeyExchange::HybridPreferred,
    KeyExchange::HybridOnly,
    KeyExchange::Classical,
];

#[cfg(not(feature = "fips"))]
#[test]
fn cryptography_of_another_module_is_refused_part_by_part() {
    for key_exchange in ALL {
        let provider = key_exchange.provider();
        let Err(fips::FipsError::Provider { parts }) = fips::check(&provider) else {
            panic!("not refused");
        };
        for group in &provider.kx_groups {
            assert!(parts.contains(&format!("{:?}", group.name())), "{parts:?}");
        }
        for part in [
            "TLS13_AES_256_GCM_SHA384",
            "signature verification",
            "random numbers",
            "private keys",
        ] {
            assert!(parts.iter().any(|named| named == part), "{parts:?}");
        }
    }
}

#[cfg(feature = "fips")]
#[test]
fn every_setting_is_in_fips_mode() {
    for key_exchange in ALL {
        fips::require(key_exchange).unwrap();
        assert!(!key_exchange.provider().kx_groups.is_empty());
    }
}

#[cfg(not(feature = "fips"))]
#[test]
fn a_build_that_promises_nothing_starts() {
    for key_exchange in ALL {
        assert_eq!(fips::require(key_exchange), Ok(()));
    }
}
