//! Counters that say what happened and why.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::outcome::Miss;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a cache has done since it was built. Counters only go up; taken together they are
        /// not a snapshot of one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads answered by a valid entry.
    hits,
    /// Reads that found no entry.
    misses_absent,
    /// Reads whose entry had been invalidated: a generation was not the entry's.
    misses_invalidated,
    /// Reads for which a group had no generation: never cached, or lost by the store.
    misses_group_missing,
    /// Reads whose entry was past its time to live (where the store has not dropped it by itself).
    misses_expired,
    /// Reads whose entry depends on other groups than are now asked for.
    misses_groups_changed,
    /// Reads whose stored bytes were not an entry, or not a value of the expected type.
    misses_undecodable,
    /// Reads that went on without the cache because it failed.
    misses_unavailable,
    /// Reads that went on without the cache because it did not answer within the soft time limit.
    misses_timeout,
    /// Reads answered by a computation that another reader had under way.
    shared,
    /// Reads answered by an expired entry while a new one was computed, where that was allowed.
    stale_while_revalidate,
    /// Reads answered by an expired entry because the computation failed, where that was allowed.
    stale_if_error,
    /// Computations begun.
    loads,
    /// Computations that failed.
    load_failures,
    /// Computations given up by their reader before they ended; somebody who waited took over.
    loads_cancelled,
    /// Entries stored.
    stores,
    /// Entries that could not be stored. The read they came from was answered all the same.
    store_failures,
    /// Computed values that were not to be stored, or that depended on a group found too late.
    not_stored,
    /// Mints of generations.
    mints,
    /// Mints that failed; the values computed without them were not stored.
    mint_failures,
    /// Times that this process waited for another to compute an entry, where a lease was asked for.
    lease_waits,
    /// Invalidations acknowledged.
    invalidations,
    /// Groups in them.
    invalidated_groups,
    /// Invalidations that were not acknowledged; their callers got the error.
    invalidation_failures,
    /// Entries deleted by key.
    deletes,
}

/// A counter of its own cache line: counters next to each other would slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }
}

impl Stats {
    /// Reads that found no usable entry, for whatever reason.
    #[must_use]
    pub const fn misses(&self) -> u64 {
        self.misses_absent
            + self.misses_invalidated
            + self.misses_group_missing
            + self.misses_expired
            + self.misses_groups_changed
            + self.misses_undecodable
            + self.misses_unavailable
            + self.misses_timeout
    }
}

impl Counters {
    pub(crate) fn miss(&self, why: Miss) {
        match why {
            Miss::Absent => &self.misses_absent,
            Miss::Invalidated => &self.misses_invalidated,
            Miss::GroupMissing => &self.misses_group_missing,
            Miss::Expired => &self.misses_expired,
            Miss::GroupsChanged => &self.misses_groups_changed,
            Miss::Undecodable => &self.misses_undecodable,
            Miss::Unavailable => &self.misses_unavailable,
            Miss::Timeout => &self.misses_timeout,
        }
        .increment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_those_of_every_kind() {
        use Miss::*;
        let counters = Counters::default();
        let kinds =
            [Absent, Expired, GroupMissing, GroupsChanged, Invalidated, Timeout, Unavailable, Undecodable];
        for (at, kind) in kinds.into_iter().enumerate() {
            (0..1 << at).for_each(|_| counters.miss(kind));
        }
        assert_eq!(counters.snapshot().misses(), 0b1111_1111);
    }
}
