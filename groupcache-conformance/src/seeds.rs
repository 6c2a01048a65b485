//! How much to test, and with which seeds.

use std::hash::{BuildHasher, RandomState};

/// Returns the factor by which a randomised test runs longer than by default.
///
/// Reads `GROUPCACHE_TEST_SCALE` from the environment; 1 if it is not set.
///
/// # Panics
///
/// Panics if the variable is not a number.
#[must_use]
pub fn scale() -> usize {
    match std::env::var("GROUPCACHE_TEST_SCALE") {
        Ok(scale) => scale.parse().expect("GROUPCACHE_TEST_SCALE is a number"),
        Err(_) => 1,
    }
}

/// Returns `count` seeds for a randomised test: half are the same in every run, half are new in each.
///
/// If the environment has `GROUPCACHE_TEST_SEED`, returns that seed alone, which repeats a failure.
///
/// ```
/// # use groupcache_conformance::{FaultPlan, seeds, under_faults};
/// # use groupcache_memory::MemoryBackend;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// for seed in seeds(4) {
///     let backend = MemoryBackend::with_max_bytes(1 << 20);
///     let repeat = format!("GROUPCACHE_TEST_SEED={seed} cargo test");
///     under_faults(backend, FaultPlan::all(seed, 10), seed, 500, &repeat).await.unwrap();
/// }
/// # }
/// ```
///
/// # Panics
///
/// Panics if the variable is not a number.
#[must_use]
pub fn seeds(count: usize) -> Vec<u64> {
    if let Ok(seed) = std::env::var("GROUPCACHE_TEST_SEED") {
        return vec![seed.parse().expect("GROUPCACHE_TEST_SEED is a number")];
    }
    let fresh = RandomState::new();
    (0..count as u64).map(|at| if at % 2 == 0 { at } else { fresh.hash_one(at) }).collect()
}
