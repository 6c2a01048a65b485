//! The groups that computations of a key found out while they ran.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::data::group::{Group, Groups};
use crate::data::key::Key;
use crate::sync::Mutex;

const SLOTS: usize = 8192;
/// Whoever asks for pages chooses their keys: of longer ones the hash is remembered.
const KEY_BYTES_MAX: usize = 256;
/// More than a thousand groups of the usual kind.
const GROUPS_BYTES_MAX: usize = 64 << 10;

/// Remembers for a bounded number of keys which groups their entries depend on beyond those that
/// the reader names, so that the next lookup asks for all of them at once. Forgetting one costs a
/// second round trip, nothing else.
///
/// A direct-mapped table: a key has one slot, and takes it from whoever was there. Very long lists are not
/// remembered, so that all of it has a bound in bytes too.
#[derive(Debug)]
pub(crate) struct DiscoveredGroups {
    slots: Box<[Mutex<Slot>]>,
    hasher: std::hash::RandomState,
    /// Caches whose computations discover nothing never hash a key for this.
    used: AtomicBool,
}

/// Which key, and what was found out.
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

    /// `named`, and what else is known about `key`; `None` if nothing is.
    pub(crate) fn extend(&self, key: &Key, named: &Groups) -> Option<Groups> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        match &*self.slot(key).lock() {
            Some((known, found)) if known.is(key) => Some(named.union(found)),
            _ => None,
        }
    }

    /// Remembers the groups of the newest entry of `key`, or forgets them if it has no more than the
    /// reader names.
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

    /// So many that some of them have the slot of another.
    fn others() -> impl Iterator<Item = Key> {
        (0..10 * SLOTS).map(|number| Key::of(&number).unwrap())
    }

    #[test]
    fn a_key_has_what_was_learned_of_it_and_no_other_has() {
        let learned = DiscoveredGroups::new();
        let key = Key::of("page").unwrap();
        let [named, late] = ["named", "late"].map(|name| Groups::from(Group::new(name)));
        let both = named.union(&late);
        assert_eq!(learned.extend(&key, &named), None);
        learned.learn(&key, &named, &both);
        assert_eq!(learned.extend(&key, &named), Some(both.clone()));
        assert!(others().all(|other| learned.extend(&other, &named).is_none()));
        // Others that have nothing to learn take nothing away.
        others().for_each(|other| learned.learn(&other, &named, &named));
        assert_eq!(learned.extend(&key, &named), Some(both.clone()));
        learned.learn(&key, &both, &both);
        assert_eq!(learned.extend(&key, &named), None, "forgotten, as its readers name it");
    }

    #[test]
    fn of_what_is_long_no_more_is_kept_than_it_takes() {
        let learned = DiscoveredGroups::new();
        let long = |end: &str| Key::of(&("x".repeat(KEY_BYTES_MAX) + end)).unwrap();
        let named = Groups::from(Group::new("x".repeat(GROUPS_BYTES_MAX)));
        let late = |count| -> Groups { (0..count).map(|id| Group::new("late").with("id", id)).collect() };
        let [few, many] = [1, 2000].map(|count| named.union(&late(count)));
        learned.learn(&long("a"), &named, &many);
        assert_eq!(learned.extend(&long("a"), &named), None);
        learned.learn(&long("a"), &named, &few);
        assert_eq!(learned.extend(&long("a"), &named), Some(few));
        assert_eq!(learned.extend(&long("b"), &named), None);
        let slot = learned.slot(&long("a")).lock();
        let (known, found) = slot.as_ref().unwrap();
        assert!(matches!(known, Known::Long(_)) && *found == late(1), "neither the key nor what is named");
    }
}
