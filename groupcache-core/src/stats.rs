//! Counters of what a cache did, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::outcome::Miss;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of a cache since it was built.
        ///
        /// Counters only increase, except for sizes, which are those of now. They are read one after the other, so
        /// they are not a consistent snapshot.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// The size in bytes of what this process remembers of groups that loads discovered. Never more than
            /// [`discovered_groups_bytes_max`](crate::CacheBuilder::discovered_groups_bytes_max).
            pub discovered_groups_bytes: u64,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($name: self.$name.0.load(Ordering::Relaxed),)*
                    discovered_groups_bytes: 0,
                }
            }
        }
    };
}

counters! {
    /// Reads served from a valid entry.
    hits,
    /// Misses because the store had no entry.
    misses_absent,
    /// Misses because a group of the entry had been invalidated.
    misses_invalidated,
    /// Misses because a group had no generation: it was never cached, or the store lost it.
    misses_group_missing,
    /// Misses because the entry was past its time to live. If the store had already dropped it, the miss
    /// counts as [`misses_absent`](Self::misses_absent).
    misses_expired,
    /// Misses because the entry depends on other groups than the read named.
    misses_groups_changed,
    /// Misses because the stored bytes were not an entry, or not a value of the expected type.
    misses_undecodable,
    /// Misses because the backend returned an error.
    misses_unavailable,
    /// Misses because the backend did not respond within the read time limit.
    misses_timeout,
    /// Misses served from the load of another reader.
    shared_loads,
    /// Reads served from an expired entry while a new value was loaded, where the options allow that.
    stale_while_revalidate,
    /// Reads served from an expired entry because the load failed, where the options allow that.
    stale_if_error,
    /// Loads started.
    loads,
    /// Loads that failed.
    load_failures,
    /// Loads cancelled before they ended, because their reader was dropped. A waiting reader loads instead.
    loads_cancelled,
    /// Loads that went on without the reader that ran them.
    loads_detached,
    /// Reads that did not wait for the end of a load: its
    /// [soft](crate::EntryOptions::load_soft_timeout) or [hard](crate::EntryOptions::load_hard_timeout) timeout
    /// ran out.
    load_timeouts,
    /// Loads that made no progress while other readers waited for them: their futures were not polled, or they
    /// took longer than the [limit](crate::CacheBuilder::load_wait_limit). Another reader loaded as well.
    stalled_loads,
    /// Reads that would have waited for a load which itself waits for the load around the read. They loaded on
    /// their own.
    wait_cycles,
    /// Entries stored. Only those that the backend has kept.
    stores,
    /// Entries that the backend did not store because one of their groups was invalidated, or was lost, while they
    /// were loaded. Their readers got the value all the same.
    stores_outdated,
    /// Entries without a value that were stored after a load found groups too late, so that the next load
    /// begins with their generations.
    placeholders_stored,
    /// Entries that could not be stored. Their readers got the value all the same.
    store_failures,
    /// Loaded values that were not stored because too many stores were in flight.
    stores_skipped,
    /// Loaded values that were not stored because `insert` stored a later one during the load.
    stores_superseded,
    /// Loaded values that were not to be stored: private ones, ones that depend on a group found too late,
    /// ones without a key, and ones whose generations the backend did not return.
    loads_not_stored,
    /// Loaded values that were refused, because they cannot be encoded or would be decoded as other values.
    /// Their readers got them; [`loads_not_stored`](Self::loads_not_stored) counts them too.
    values_refused,
    /// Groups that were declared in a load that had ended, by a task that outlived it. The stored value does not
    /// depend on them; see [`LoadContext`](crate::LoadContext).
    dependencies_after_load,
    /// Mints, of any number of generations each.
    mints,
    /// Mints that failed. The values of these loads were not stored.
    mint_failures,
    /// Waits for another process that held the lease on a load.
    lease_waits,
    /// Invalidations that the backend acknowledged, of any number of groups each.
    invalidations,
    /// Groups in acknowledged invalidations.
    invalidated_groups,
    /// Invalidations that failed. Their callers got the error.
    invalidation_failures,
    /// Entries deleted by key.
    deletes,
}

/// A counter on a cache line of its own, which avoids false sharing between counters.
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
    /// Returns the number of reads that found no usable entry, for any reason.
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
    pub(crate) fn miss(&self, reason: Miss) {
        match reason {
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
    fn misses_are_the_sum_over_all_reasons() {
        use Miss::*;
        let counters = Counters::default();
        let reasons =
            [Absent, Expired, GroupMissing, GroupsChanged, Invalidated, Timeout, Unavailable, Undecodable];
        for (at, reason) in reasons.into_iter().enumerate() {
            (0..1 << at).for_each(|_| counters.miss(reason));
        }
        assert_eq!(counters.snapshot().misses(), 0b1111_1111);
    }
}
