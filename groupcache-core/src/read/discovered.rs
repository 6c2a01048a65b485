//! The groups that loads of a key discovered while they ran.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::sync::Mutex;

const SLOTS: usize = 8192;
/// Clients choose the keys of pages. Of longer keys only the hash is kept.
const KEY_BYTES_MAX: usize = 256;
/// Room for more than a thousand groups of the usual length.
const GROUPS_BYTES_MAX: usize = 64 << 10;

/// Remembers, for a bounded number of keys, the groups of their entries that readers do not name. The next
/// lookup then asks for all groups at once. A forgotten key costs a second round trip, nothing else.
///
/// A direct-mapped table: a key has one slot, and replaces the key that had it before. Very long lists are
/// not kept, so that the table is bounded in bytes.
#[derive(Debug)]
pub(crate) struct DiscoveredGroups {
    slots: Box<[Mutex<Slot>]>,
    hasher: std::hash::RandomState,
    /// Caches whose loads discover nothing never hash a key for this.
    used: AtomicBool,
}

/// A key, and the groups that were discovered for it.
type Slot = Option<(Known, Groups)>;

#[derive(Debug)]
enum Known {
    Short(Key),
    Long([u8; 32]),
}

impl Known {
    fn of(key: &Key) -> Self {
        if key.as_bytes().len() <= KEY_BYTES_MAX { Self::Short(key.clone()) } else { Self::Long(key.hash()) }
    }

    fn is(&self, key: &Key) -> bool {
        match self {
            Self::Short(known) => known == key,
            Self::Long(hash) => key.as_bytes().len() > KEY_BYTES_MAX && *hash == key.hash(),
        }
    }
}

impl DiscoveredGroups {
    pub(crate) fn new() -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::new(None)).collect();
        Self { slots, hasher: std::hash::RandomState::new(), used: AtomicBool::new(false) }
    }

    /// Returns `named` and what was discovered for `key`; `None` if nothing was.
    pub(crate) fn extend(&self, key: &Key, named: &Groups) -> Option<Groups> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        match &*self.slot(key).lock() {
            Some((known, found)) if known.is(key) => Some(named.union(found)),
            _ => None,
        }
    }

    /// Remembers the groups of the newest entry of `key`. Forgets the key if its readers name all of them.
    pub(crate) fn learn(&self, key: &Key, named: &Groups, groups: &Groups) {
        if named.contains_all(groups) {
            if self.used.load(Ordering::Relaxed) {
                let mut slot = self.slot(key).lock();
                if slot.as_ref().is_some_and(|(known, _)| known.is(key)) {
                    *slot = None;
                }
            }
            return;
        }
        let found: Groups = groups.iter().filter(|group| !named.contains(group)).cloned().collect();
        if found.iter().map(Group::size_bytes).sum::<usize>() > GROUPS_BYTES_MAX {
            return;
        }
        self.used.store(true, Ordering::Relaxed);
        *self.slot(key).lock() = Some((Known::of(key), found));
    }

    fn slot(&self, key: &Key) -> &Mutex<Slot> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(key) as usize % SLOTS;
        &self.slots[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many keys that some of them share a slot.
    fn others() -> impl Iterator<Item = Key> {
        (0..10 * SLOTS).map(|number| Key::of(&number).unwrap())
    }

    #[test]
    fn a_key_has_what_was_learned_of_it_and_no_other_has() {
        let discovered = DiscoveredGroups::new();
        let key = Key::of("page").unwrap();
        let [named, late] = ["named", "late"].map(|name| Groups::from(Group::new(name)));
        let both = named.union(&late);
        assert_eq!(discovered.extend(&key, &named), None);
        discovered.learn(&key, &named, &both);
        assert_eq!(discovered.extend(&key, &named), Some(both.clone()));
        assert!(others().all(|other| discovered.extend(&other, &named).is_none()));
        // Keys without discovered groups do not evict others.
        others().for_each(|other| discovered.learn(&other, &named, &named));
        assert_eq!(discovered.extend(&key, &named), Some(both.clone()));
        discovered.learn(&key, &both, &both);
        assert_eq!(discovered.extend(&key, &named), None, "forgotten: its readers name it");
    }

    #[test]
    fn of_what_is_long_no_more_is_kept_than_it_takes() {
        let discovered = DiscoveredGroups::new();
        let long = |end: &str| Key::of(&("x".repeat(KEY_BYTES_MAX) + end)).unwrap();
        let named = Groups::from(Group::new("x".repeat(GROUPS_BYTES_MAX)));
        let late = |count| -> Groups { (0..count).map(|id| Group::new("late").with("id", id)).collect() };
        let [few, many] = [1, 2000].map(|count| named.union(&late(count)));
        discovered.learn(&long("a"), &named, &many);
        assert_eq!(discovered.extend(&long("a"), &named), None);
        discovered.learn(&long("a"), &named, &few);
        assert_eq!(discovered.extend(&long("a"), &named), Some(few));
        assert_eq!(discovered.extend(&long("b"), &named), None);
        let slot = discovered.slot(&long("a")).lock();
        let (known, found) = slot.as_ref().unwrap();
        assert!(matches!(known, Known::Long(_)) && *found == late(1), "neither the key nor the named groups");
    }
}
