//! Keys whose loads had nothing to share.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::data::key::Key;
use crate::sync::RandomState;

const SLOTS: usize = 4096;
/// How long a key is remembered after the last load that had nothing to share.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// The unit of the times in slots, which have room for 13 years of it.
const UNIT_MILLIS: u128 = 100;

/// Remembers for a short time the keys whose last load was private. Readers of such a key do not wait for
/// each other, as they would wait for nothing. HTTP caches call this hit-for-miss.
///
/// A direct-mapped table of hashes, of 32 KiB. A key that was forgotten, or is taken for another one, costs
/// time: readers wait for a load they cannot share, or load at once what they could share.
#[derive(Debug)]
pub(crate) struct UnsharedKeys {
    /// Part of the key's hash, and until when it is remembered.
    slots: Box<[AtomicU64]>,
    start: Instant,
    hasher: RandomState,
    /// Caches that share every load never hash a key for this.
    used: AtomicBool,
}

impl UnsharedKeys {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            start: Instant::now(),
            hasher: RandomState::default(),
            used: AtomicBool::new(false),
        }
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            return false;
        }
        let (slot, hash) = self.slot(key);
        let known = slot.load(Ordering::Relaxed);
        known >> 32 == hash && known & u64::from(u32::MAX) > self.units(Duration::ZERO)
    }

    pub(crate) fn remember(&self, key: &Key) {
        self.used.store(true, Ordering::Relaxed);
        let (slot, hash) = self.slot(key);
        slot.store(hash << 32 | self.units(REMEMBERED_FOR), Ordering::Relaxed);
    }

    pub(crate) fn forget(&self, key: &Key) {
        if self.contains(key) {
            self.slot(key).0.store(0, Ordering::Relaxed);
        }
    }

    fn slot(&self, key: &Key) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = hash as usize % SLOTS;
        (&self.slots[at], hash >> 32)
    }

    /// Returns the time that is `from_now` away, in units since the start.
    fn units(&self, from_now: Duration) -> u64 {
        let units = (self.start.elapsed() + from_now).as_millis() / UNIT_MILLIS;
        u64::from(u32::try_from(units).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_remembered_for_a_while_and_no_other_is() {
        let keys = UnsharedKeys::new();
        let [one, other] = ["one", "other"].map(|key| Key::of(key).unwrap());
        assert!(!keys.contains(&one));
        keys.remember(&one);
        assert!(keys.contains(&one) && !keys.contains(&other));
        tokio::time::advance(REMEMBERED_FOR - Duration::from_millis(200)).await;
        assert!(keys.contains(&one));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert!(!keys.contains(&one));
        keys.remember(&one);
        keys.forget(&one);
        assert!(!keys.contains(&one));
    }
}
