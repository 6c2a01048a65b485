//! The groups that computations of a key found out while they ran.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::group::{Group, Groups};
use crate::key::Key;
use crate::sync::Mutex;

const SLOTS: usize = 8192;
/// Whoever asks for pages chooses their keys; there is little to gain from remembering the longest ones.
const KEY_BYTES_MAX: usize = 1 << 10;
/// Some hundred groups.
const GROUPS_BYTES_MAX: usize = 16 << 10;

/// Remembers for a bounded number of keys which groups their entries depend on beyond those that
/// the reader names, so that the next lookup asks for all of them at once. Forgetting one costs a
/// second round trip, nothing else.
///
/// A direct-mapped table: a key has one slot, and takes it from whoever was there. What is long is not
/// remembered, so that all of it has a bound in bytes too.
#[derive(Debug)]
pub(crate) struct Learned {
    slots: Box<[Mutex<Slot>]>,
    hasher: std::hash::RandomState,
    /// Caches whose computations discover nothing never hash a key for this.
    used: AtomicBool,
}

type Slot = Option<(Key, Groups)>;

impl Learned {
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
            Some((known, groups)) if known == key => Some(named.union(groups)),
            _ => None,
        }
    }

    /// Remembers the groups of the newest entry of `key`, or forgets them if it has no more than the
    /// reader names.
    pub(crate) fn learn(&self, key: &Key, named: &Groups, groups: &Groups) {
        if named.contains_all(groups) {
            if self.used.load(Ordering::Relaxed) {
                let mut slot = self.slot(key).lock();
                if slot.as_ref().is_some_and(|(known, _)| known == key) {
                    *slot = None;
                }
            }
            return;
        }
        let groups_bytes: usize = groups.iter().map(Group::size_bytes).sum();
        if key.as_bytes().len() > KEY_BYTES_MAX || groups_bytes > GROUPS_BYTES_MAX {
            return;
        }
        self.used.store(true, Ordering::Relaxed);
        *self.slot(key).lock() = Some((key.clone(), groups.clone()));
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
        let learned = Learned::new();
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
    fn what_is_long_is_not_remembered() {
        let learned = Learned::new();
        let (short, long) = (Key::of("page").unwrap(), Key::of(&"x".repeat(KEY_BYTES_MAX)).unwrap());
        let named = Groups::from(Group::new("named"));
        let few = named.union(&Groups::from(Group::new("late")));
        let many: Groups = (0..1000).map(|id| Group::new("late").with("id", id)).collect();
        let many = named.union(&many);
        learned.learn(&long, &named, &few);
        learned.learn(&short, &named, &many);
        assert_eq!([&short, &long].map(|key| learned.extend(key, &named)), [None, None]);
        learned.learn(&short, &named, &few);
        assert_eq!(learned.extend(&short, &named), Some(few));
    }
}
