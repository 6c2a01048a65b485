//! How much to test, and with which seeds.

use std::hash::{BuildHasher, RandomState};

/// How many times as much as in CI: `GROUPCACHE_TEST_SCALE`, 1 if that is not set.
///
/// # Panics
///
/// If it is set to something that is no number.
#[must_use]
pub fn scale() -> usize {
    match std::env::var("GROUPCACHE_TEST_SCALE") {
        Ok(scale) => scale.parse().expect("GROUPCACHE_TEST_SCALE is a number"),
        Err(_) => 1,
    }
}

/// This many seeds: one half the same every time, the other half new every time. Or the only one that
/// `GROUPCACHE_TEST_SEED` names, to repeat a failure.
///
/// # Panics
///
/// If that is set to something that is no number.
pub fn seeds(count: usize) -> Vec<u64> {
    if let Ok(seed) = std::env::var("GROUPCACHE_TEST_SEED") {
        return vec![seed.parse().expect("GROUPCACHE_TEST_SEED is a number")];
    }
    let fresh = RandomState::new();
    (0..count as u64).map(|at| if at % 2 == 0 { at } else { fresh.hash_one(at) }).collect()
}
