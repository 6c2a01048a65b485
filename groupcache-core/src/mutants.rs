//! Deliberate mistakes, each of which breaks one rule of the algorithm: the test suite has to find
//! every one. Only there with `--cfg groupcache_mutants`, which no release is built with; see
//! `tests/mutants`.
//!
//! Those of this crate are in `compute.rs`, `cache.rs`, `single_flight.rs`, `fill.rs` and
//! `conformance/history.rs`, where `is_on` asks for them by name; other crates have theirs where they
//! keep the rule.

use std::sync::OnceLock;

use crate::backend::Backend;
use crate::backend::lookup::TimeLeft;
use crate::cache::Cache;
use crate::data::entry::{Entry, Generation, GenerationVector};
use crate::load_context::Sealed;

/// Stands for every missing generation in `flight_on_missing`.
pub(crate) const MISSING: u128 = 1;

/// Whether `GROUPCACHE_MUTANT` names this mistake.
#[must_use]
pub fn is_on(name: &str) -> bool {
    static ON: OnceLock<Option<String>> = OnceLock::new();
    ON.get_or_init(|| std::env::var("GROUPCACHE_MUTANT").ok()).as_deref() == Some(name)
}

/// Of `flight_on_missing`: the vector as a lookup saw it.
pub(crate) fn with_missing(seen: impl Iterator<Item = Option<Generation>>) -> GenerationVector {
    seen.filter_map(|generation| generation.or(Generation::new(MISSING))).collect()
}

impl<B: Backend> Cache<B> {
    /// `late_generations`: the vector is read after the computation instead of before.
    pub(crate) async fn read_vector_late(&self, mut sealed: Sealed) -> Sealed {
        if (is_on("late_generations") || is_on("late_generations_conditional"))
            && let Ok(minted) = self.inner().backend.mint(&sealed.groups).await
        {
            sealed.vector = minted.vector;
            sealed.guards.push(minted.guard);
        }
        sealed
    }

    /// `late_generations_conditional`: that, and the entry is stored only if its vector is current.
    pub(crate) async fn is_refused_by_condition(&self, entry: &Entry) -> bool {
        if !is_on("late_generations_conditional") {
            return false;
        }
        let lookup = self.inner().backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded).await;
        !lookup.is_ok_and(|lookup| lookup.current.equals(entry.vector()))
    }
}
