//! Mutants: changes that each break one rule of the algorithm. The test suite has to find every one. They are
//! compiled with `--cfg groupcache_mutants` only, which no release is built with; see `tests/mutants`.
//!
//! A mutant is where its rule is kept, and asks `is_on` for its name. This file has what several of them
//! need.

use std::sync::OnceLock;

use crate::data::entry::{Generation, GenerationVector};

/// Stands for every missing generation in `flight_on_missing`.
pub(crate) const MISSING: u128 = 1;

/// Whether `GROUPCACHE_MUTANT` names this mutant.
#[must_use]
pub fn is_on(name: &str) -> bool {
    static ON: OnceLock<Option<String>> = OnceLock::new();
    ON.get_or_init(|| std::env::var("GROUPCACHE_MUTANT").ok()).as_deref() == Some(name)
}

/// Returns the vector as a lookup saw it, for `flight_on_missing`.
pub(crate) fn with_missing(seen: impl Iterator<Item = Option<Generation>>) -> GenerationVector {
    seen.filter_map(|generation| generation.or(Generation::new(MISSING))).collect()
}
