//! The groups that loads of a key discovered while they ran.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::data::group::Groups;
use crate::data::key::Key;

/// Remembers, for a bounded number of bytes, the groups of entries that readers do not name. The next lookup
/// then asks for all groups at once. A forgotten key costs a second round trip, nothing else: the entry names
/// its groups too.
///
/// Keys are remembered by a hash that other processes cannot predict. Two keys of one hash would look up each
/// other's groups, which changes no verdict and no entry.
pub(crate) struct DiscoveredGroups {
    by_key: Cache<u64, Groups, Bytes, RandomState>,
    hasher: RandomState,
    /// Caches whose loads discover nothing never hash a key for this.
    used: AtomicBool,
}

impl DiscoveredGroups {
    pub(crate) fn with_max_bytes(max_bytes: u64) -> Self {
        let items = usize::try_from(max_bytes / ITEM_BYTES).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(items)
            .weight_capacity(max_bytes)
            // A key that was forgotten is found in its entry, so there is no use in remembering its absence.
            .ghost_allocation(0.0)
            .build()
            .expect("all required options");
        let by_key = Cache::with_options(options, Bytes, RandomState::new(), DefaultLifecycle::default());
        Self { by_key, hasher: RandomState::new(), used: AtomicBool::new(false) }
    }

    /// Returns `named` and what was discovered for `key`; `None` if nothing was.
    pub(crate) fn extend(&self, key: &Key, named: &Groups) -> Option<Groups> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        self.by_key.get(&self.hash(key)).map(|found| named.union(&found))
    }

    /// Remembers the groups of the newest entry of `key`. Forgets the key if its readers name all of them.
    pub(crate) fn learn(&self, key: &Key, named: &Groups, groups: &Groups) {
        if named.contains_all(groups) {
            if self.used.load(Ordering::Relaxed) {
                self.by_key.remove(&self.hash(key));
            }
            return;
        }
        let found: Groups = groups.iter().filter(|group| !named.contains(group)).cloned().collect();
        self.used.store(true, Ordering::Relaxed);
        self.by_key.insert(self.hash(key), found);
    }

    /// Returns the estimated size in bytes of what is remembered.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.by_key.weight()
    }

    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }
}

impl fmt::Debug for DiscoveredGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveredGroups").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

/// Weighs what is remembered by its bytes in memory.
#[derive(Clone)]
struct Bytes;

impl Weighter<u64, Groups> for Bytes {
    fn weight(&self, _: &u64, groups: &Groups) -> u64 {
        ITEM_BYTES + groups.iter().map(|group| group.size_bytes() as u64).sum::<u64>()
    }
}

/// Few, so that the groups of one key may take much: a share of the bytes of this size.
const SHARDS: usize = 16;

/// What the map and the list of groups take for each key.
const ITEM_BYTES: u64 = 112;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::group::Group;

    fn key(number: u32) -> Key {
        Key::of(&number).unwrap()
    }

    #[test]
    fn a_key_has_what_was_learned_of_it_and_no_other_has() {
        let discovered = DiscoveredGroups::with_max_bytes(16 << 20);
        let key = Key::of("page").unwrap();
        let [named, late] = ["named", "late"].map(|name| Groups::from(Group::new(name)));
        let both = named.union(&late);
        assert_eq!(discovered.extend(&key, &named), None);
        discovered.learn(&key, &named, &both);
        assert_eq!(discovered.extend(&key, &named), Some(both.clone()));
        let others = || (0..80_000).map(self::key);
        assert!(others().all(|other| discovered.extend(&other, &named).is_none()));
        // Keys without discovered groups do not evict others.
        others().for_each(|other| discovered.learn(&other, &named, &named));
        assert_eq!(discovered.extend(&key, &named), Some(both.clone()));
        discovered.learn(&key, &both, &both);
        assert_eq!(discovered.extend(&key, &named), None, "forgotten: its readers name it");
        assert_eq!(discovered.size_bytes(), 0);
    }

    #[test]
    fn fifty_thousand_keys_are_remembered_by_default() {
        let discovered = DiscoveredGroups::with_max_bytes(crate::cache::DISCOVERED_GROUPS_BYTES_MAX);
        let group = |number: u32| Groups::from(Group::new("author").with("id", number));
        (0..50_000).for_each(|number| discovered.learn(&key(number), &Groups::none(), &group(number)));
        let known = |number: &u32| {
            discovered.extend(&key(*number), &Groups::none()).is_some_and(|found| found == group(*number))
        };
        assert_eq!((0..50_000).filter(known).count(), 50_000);
    }

    #[test]
    fn the_bytes_stay_within_the_bound_and_keys_that_are_read_stay_known() {
        for max_bytes in [0, 1, 1000, 1 << 20] {
            let discovered = DiscoveredGroups::with_max_bytes(max_bytes);
            let many = |number| -> Groups {
                (0..20).map(|id| Group::new("book").with("id", id).with("of", number)).collect()
            };
            discovered.learn(&key(0), &Groups::none(), &many(0));
            for number in 1..5000 {
                discovered.learn(&key(number), &Groups::none(), &many(number));
                discovered.extend(&key(0), &Groups::none());
                assert!(discovered.size_bytes() <= max_bytes + SHARDS as u64, "{}", discovered.size_bytes());
            }
            let is_known = discovered.extend(&key(0), &Groups::none()).is_some();
            assert_eq!(is_known, max_bytes == 1 << 20, "{max_bytes}");
        }
    }

    #[test]
    fn a_list_that_is_longer_than_its_share_is_not_kept_and_evicts_nothing() {
        let discovered = DiscoveredGroups::with_max_bytes(1 << 20);
        let late = |count| -> Groups { (0..count).map(|id| Group::new("late").with("id", id)).collect() };
        discovered.learn(&key(1), &Groups::none(), &late(500));
        assert_eq!(discovered.extend(&key(1), &Groups::none()), Some(late(500)));
        discovered.learn(&key(2), &Groups::none(), &late(5000));
        assert_eq!(discovered.extend(&key(2), &Groups::none()), None);
        assert_eq!(discovered.extend(&key(1), &Groups::none()), Some(late(500)));
        // Nor is the older, shorter list.
        discovered.learn(&key(1), &Groups::none(), &late(5000));
        assert_eq!(discovered.extend(&key(1), &Groups::none()), None);
    }
}
