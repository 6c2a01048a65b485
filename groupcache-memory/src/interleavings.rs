//! The table of generations under schedules that shuttle chooses. Only in test builds with
//! `--cfg groupcache_shuttle`, where `sync.rs` has shuttle's mutex and atomics; see
//! `tests/interleavings`.
//!
//! moka is not part of it: its locks are none that shuttle knows. What keeps entries here is one slot
//! that does what `MemoryBackend` does with the cells of an entry. The counter that all generations
//! come from is the system's own, as it outlives a schedule: drawing one is one step.

#[path = "../../tests/src/explore.rs"]
mod explore;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groupcache_core::backend::Generation;

use groupcache_core::Group;
use shuttle::thread;

use self::explore::{explore, explore_all};
use crate::generations::{Cell, Generations};
use crate::sync::Mutex;

fn group() -> Group {
    Group::new("g")
}

/// An entry of one group, and the version of the data that it shows.
#[derive(Clone)]
struct Stored {
    cell: Arc<Cell>,
    vector: Option<Generation>,
    version: u64,
}

/// A store of one entry, and the data behind it.
struct World {
    table: Arc<Generations>,
    slot: Mutex<Option<Stored>>,
    /// Not shuttle's: a look at them is no point at which another thread may run.
    committed: AtomicU64,
    acknowledged: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let (committed, acknowledged) = (AtomicU64::new(1), AtomicU64::new(0));
        Arc::new(Self { table: Generations::new(), slot: Mutex::new(None), committed, acknowledged })
    }

    /// The way of a fill: mint, read the data, store under the cell that is there then.
    fn compute(&self) {
        let minted = self.table.find_or_create(&group());
        let vector = minted.generation();
        thread::yield_now();
        let version = self.committed.load(Ordering::SeqCst);
        thread::yield_now();
        if let Some(cell) = self.table.find(&group()) {
            #[cfg(groupcache_mutants)]
            let vector =
                if groupcache_core::mutants::is_on("vector_of_store") { cell.generation() } else { vector };
            let stored = Stored { cell, vector, version };
            let replaced = self.slot.lock().unwrap().replace(stored);
            // As in moka, what was replaced lets go of its cells outside any lock of the table.
            drop(replaced);
        }
    }

    fn change(&self) {
        let version = self.committed.fetch_add(1, Ordering::SeqCst) + 1;
        thread::yield_now();
        if let Some(cell) = self.table.find(&group()) {
            cell.bump();
        }
        self.acknowledged.fetch_max(version, Ordering::SeqCst);
    }

    fn evict(&self) {
        let evicted = self.slot.lock().unwrap().take();
        drop(evicted);
    }

    /// A hit must show what was acknowledged before it was looked for.
    fn read(&self) {
        let floor = self.acknowledged.load(Ordering::SeqCst);
        let found = self.slot.lock().unwrap().clone();
        if let Some(found) = found
            && found.cell.generation() == found.vector
        {
            assert!(found.version >= floor, "version {} is a hit after {floor}", found.version);
        }
    }
}

fn at_once<const COUNT: usize>(world: &Arc<World>, tasks: [fn(&World); COUNT]) {
    let tasks = tasks.map(|task| {
        let world = Arc::clone(world);
        thread::spawn(move || task(&world))
    });
    for task in tasks {
        task.join().unwrap();
    }
}

#[test]
fn no_bump_is_lost_and_no_entry_revived_while_groups_disappear_and_come_back() {
    explore("no_bump_is_lost_and_no_entry_revived_while_groups_disappear_and_come_back", || {
        let world = World::new();
        at_once(
            &world,
            [
                |world| {
                    world.compute();
                    world.read();
                },
                |world| {
                    world.compute();
                    world.evict();
                    world.compute();
                },
                |world| {
                    world.change();
                    world.read();
                    world.change();
                    world.read();
                },
                World::evict,
            ],
        );
        world.read();
        world.evict();
        assert_eq!(world.table.len(), 0, "a group that nobody uses is left behind");
    });
}

#[test]
fn a_computation_and_an_invalidation_in_every_order() {
    explore_all(|| {
        let world = World::new();
        at_once(&world, [World::compute, World::change]);
        world.read();
        world.evict();
        assert_eq!(world.table.len(), 0, "a group that nobody uses is left behind");
    });
}

/// One lets go of the group while another takes hold of it.
fn hold_and_let_go(rounds: usize) {
    let table = Generations::new();
    let holders = [(); 2].map(|()| {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            for _ in 0..rounds {
                let cell = table.find_or_create(&group());
                let found = table.find(&group());
                assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &cell)), "a group has two cells");
            }
        })
    });
    for holder in holders {
        holder.join().unwrap();
    }
    assert_eq!(table.len(), 0, "a group that nobody uses is left behind");
}

#[test]
fn a_group_has_one_cell_as_long_as_somebody_holds_it() {
    explore("a_group_has_one_cell_as_long_as_somebody_holds_it", || hold_and_let_go(3));
}

#[test]
fn holding_and_letting_go_once_in_every_order() {
    explore_all(|| hold_and_let_go(1));
}

#[test]
fn no_generation_is_handed_out_twice() {
    explore("no_generation_is_handed_out_twice", || {
        let table = Generations::new();
        let (one, other) = (table.find_or_create(&group()), table.find_or_create(&Group::new("other")));
        let seen = Arc::new(Mutex::new(vec![one.generation(), other.generation()]));
        let bumpers = [Arc::clone(&one), one, other].map(|cell| {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                let before = cell.generation();
                cell.bump();
                let after = cell.generation();
                assert_ne!(before, after, "a bump that changes nothing");
                seen.lock().unwrap().push(after);
            })
        });
        for bumper in bumpers {
            bumper.join().unwrap();
        }
        let mut seen = seen.lock().unwrap().clone();
        // Of two bumps of one group, both may see the second's.
        seen.sort_by_key(|generation| generation.map(Generation::get));
        seen.dedup();
        assert!(seen.len() >= 4, "two groups, or two moments of one, have one generation: {seen:?}");
    });
}
