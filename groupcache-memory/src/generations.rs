//! The generations of the groups that something uses.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64 as SystemAtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use groupcache_core::backend::Generation;

use groupcache_core::Group;

use crate::sync::{AtomicU64, Mutex, MutexGuard, RandomState, SHARDS};

/// Counts all generations of this process: a group that disappears and comes back, in this table or
/// another, has a generation it never had.
static NEXT: SystemAtomicU64 = SystemAtomicU64::new(1);

/// Finds the cells of groups. Knows a group only while somebody guards its cell: the table refers to
/// cells weakly, and a cell takes itself out when the last holder lets go.
#[derive(Debug)]
pub(crate) struct Generations {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Group, Weak<Cell>>;

/// The current generation of one group.
#[derive(Debug)]
pub(crate) struct Cell {
    group: Group,
    generation: AtomicU64,
    table: Weak<Generations>,
}

impl Generations {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Arc::new(Self { shards, hasher: RandomState::new() })
    }

    /// The cell of `group`, if somebody guards it.
    pub(crate) fn find(&self, group: &Group) -> Option<Arc<Cell>> {
        self.shard(group).get(group).and_then(Weak::upgrade)
    }

    /// The cell of `group`, a new one with a fresh generation if nobody guards it. Of several callers
    /// at once all get the same.
    pub(crate) fn find_or_create(self: &Arc<Self>, group: &Group) -> Arc<Cell> {
        let mut shard = self.shard(group);
        if let Some(cell) = shard.get(group).and_then(Weak::upgrade) {
            return cell;
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("unlocked_create") {
            drop(shard);
            shard = self.shard(group);
        }
        let cell = Arc::new(Cell {
            group: group.clone(),
            generation: AtomicU64::new(next()),
            table: Arc::downgrade(self),
        });
        shard.insert(group.clone(), Arc::downgrade(&cell));
        cell
    }

    /// How many groups somebody guards, or held until a moment ago.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    // A `Cell` must never be dropped while its shard is locked: its drop locks it too.
    fn shard(&self, group: &Group) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(group) as usize % SHARDS;
        lock(&self.shards[at])
    }
}

impl Cell {
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
        self.generation.store(next(), Ordering::SeqCst);
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        let mut shard = table.shard(&self.group);
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("careless_drop") {
            shard.remove(&self.group);
        }
        // Somebody may have created the group anew since the last holder let go of this cell.
        if shard.get(&self.group).is_some_and(|cell| std::ptr::eq(cell.as_ptr(), self)) {
            shard.remove(&self.group);
        }
    }
}

fn next() -> u64 {
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("small_counter") {
        return 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 4;
    }
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_while_somebody_holds_it_and_new_afterwards() {
        let table = Generations::new();
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
        let table = Generations::new();
        let cell = table.find_or_create(&Group::new("g"));
        let mut seen = vec![cell.generation()];
        for _ in 0..100 {
            cell.bump();
            assert!(!seen.contains(&cell.generation()));
            seen.push(cell.generation());
        }
    }

    #[test]
    fn creating_and_letting_go_at_once_neither_hangs_nor_leaks() {
        let table = Generations::new();
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
