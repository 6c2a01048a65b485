//! The table of generations: one counter for each group that an entry or a load uses.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64 as SystemAtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use groupcache_core::Group;
use groupcache_core::backend::Generation;

use self::system::{AtomicU64, Mutex, MutexGuard, RandomState};

/// Shuttle makes all shards anew for each schedule, and finds more the more threads meet at one.
const SHARDS: usize = if cfg!(all(test, groupcache_shuttle)) { 2 } else { 64 };

/// Counts all generations of this process. A group that disappears and comes back, in this table or in
/// another, gets a generation that it never had.
static NEXT: SystemAtomicU64 = SystemAtomicU64::new(1);

/// Finds the cells of groups.
///
/// The table refers to cells weakly, and a cell removes itself when its last holder drops it. So the table
/// knows a group only while an entry or a load holds its cell.
#[derive(Debug)]
pub(crate) struct GenerationTable {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Group, Weak<GenerationCell>>;

/// The current generation of one group.
#[derive(Debug)]
pub(crate) struct GenerationCell {
    group: Group,
    generation: AtomicU64,
    table: Weak<GenerationTable>,
}

impl GenerationTable {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Arc::new(Self { shards, hasher: RandomState::new() })
    }

    /// Returns the cell of `group`, if there is one.
    pub(crate) fn find(&self, group: &Group) -> Option<Arc<GenerationCell>> {
        self.shard(group).get(group).and_then(Weak::upgrade)
    }

    /// Returns the cell of `group`, or a new one with a fresh generation. Concurrent callers all get the
    /// same.
    pub(crate) fn find_or_create(self: &Arc<Self>, group: &Group) -> Arc<GenerationCell> {
        let mut shard = self.shard(group);
        if let Some(cell) = shard.get(group).and_then(Weak::upgrade) {
            return cell;
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("unlocked_create") {
            drop(shard);
            shard = self.shard(group);
        }
        let cell = Arc::new(GenerationCell {
            group: group.clone(),
            generation: AtomicU64::new(next_generation()),
            table: Arc::downgrade(self),
        });
        shard.insert(group.clone(), Arc::downgrade(&cell));
        cell
    }

    /// Bumps every group that has a cell.
    pub(crate) fn bump_all(&self) {
        for shard in &self.shards {
            // The drop of a cell locks the shard: the list is dropped after the lock.
            let cells: Vec<_> = lock(shard).values().filter_map(Weak::upgrade).collect();
            cells.iter().for_each(|cell| cell.bump());
        }
    }

    /// Returns the number of groups that have a cell, or had one until a moment ago.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    // A cell must never be dropped while its shard is locked: dropping it locks the shard too.
    fn shard(&self, group: &Group) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(group) as usize % SHARDS;
        lock(&self.shards[at])
    }
}

impl GenerationCell {
    pub(crate) fn generation(&self) -> Option<Generation> {
        Generation::new(self.generation.load(Ordering::SeqCst).into())
    }

    /// Installs a generation that was never current before.
    pub(crate) fn bump(&self) {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("counted_up") {
            let now = self.generation.load(Ordering::SeqCst);
            return self.generation.store(now + 1, Ordering::SeqCst);
        }
        self.generation.store(next_generation(), Ordering::SeqCst);
    }
}

impl Drop for GenerationCell {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        let mut shard = table.shard(&self.group);
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("careless_drop") {
            shard.remove(&self.group);
        }
        // Another thread may have created the group anew since the last holder dropped this cell.
        if shard.get(&self.group).is_some_and(|cell| std::ptr::eq(cell.as_ptr(), self)) {
            shard.remove(&self.group);
        }
    }
}

fn next_generation() -> u64 {
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("small_counter") {
        return 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 4;
    }
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(all(test, groupcache_shuttle)))]
mod system {
    pub(super) use std::hash::RandomState;
    pub(super) use std::sync::atomic::AtomicU64;
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// At each of these shuttle may run another thread. See `interleavings.rs`.
#[cfg(all(test, groupcache_shuttle))]
mod system {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    pub(super) use shuttle::sync::atomic::AtomicU64;
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    /// The same in every execution, so that a schedule can be repeated.
    pub(super) type RandomState = BuildHasherDefault<DefaultHasher>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_while_its_cell_is_held_and_new_afterwards() {
        let table = GenerationTable::new();
        let group = Group::new("g");
        let first = table.find_or_create(&group);
        let same = table.find_or_create(&group);
        assert!(Arc::ptr_eq(&first, &same));
        let generation = first.generation();
        drop(first);
        assert_eq!(table.find(&group).and_then(|cell| cell.generation()), generation);
        drop(same);
        assert!(table.find(&group).is_none());
        assert_eq!(table.len(), 0);
        assert_ne!(table.find_or_create(&group).generation(), generation);
    }

    #[test]
    fn a_bump_installs_a_generation_that_never_was() {
        let table = GenerationTable::new();
        let cell = table.find_or_create(&Group::new("g"));
        let mut seen = vec![cell.generation()];
        for _ in 0..100 {
            cell.bump();
            assert!(!seen.contains(&cell.generation()));
            seen.push(cell.generation());
        }
    }

    #[test]
    fn all_groups_can_be_bumped_at_once() {
        let table = GenerationTable::new();
        let cells: Vec<_> = (0..200).map(|n| table.find_or_create(&Group::new("g").with("n", n))).collect();
        let before: Vec<_> = cells.iter().map(|cell| cell.generation()).collect();
        table.bump_all();
        assert!(cells.iter().zip(before).all(|(cell, before)| cell.generation() != before));
        drop(cells);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn creating_and_dropping_cells_at_once_neither_hangs_nor_leaks() {
        let table = GenerationTable::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let group = Group::new("g").with("n", round % 3);
                        let cell = table.find_or_create(&group);
                        assert!(table.find(&group).is_some_and(|found| Arc::ptr_eq(&found, &cell)));
                        if round % 7 == 0 {
                            cell.bump();
                        }
                    }
                });
            }
        });
        assert_eq!(table.len(), 0);
    }
}
