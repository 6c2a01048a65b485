//! The table of generations under schedules that shuttle chooses.
//!
//! Compiled in test builds with `--cfg groupcache_shuttle` only, where the table uses shuttle's mutex and
//! atomics. `tests/interleavings` runs it.
//!
//! moka is not part of it, because shuttle does not know its locks. One slot stands for it, which does what
//! `MemoryBackend` does with the cells of an entry. The counter of generations is the system's own, because
//! it outlives a schedule: drawing a generation is one step.

#[path = "../../tests/src/explore.rs"]
mod explore;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groupcache_core::Group;
use groupcache_core::backend::Generation;
use shuttle::sync::Mutex;
use shuttle::thread;

use self::explore::{explore, explore_all};
use crate::generations::{GenerationCell, GenerationTable};

fn group() -> Group {
    Group::new("g")
}

/// An entry of one group, and the version of the data that it shows.
#[derive(Clone)]
struct Stored {
    cell: Arc<GenerationCell>,
    vector: Option<Generation>,
    version: u64,
}

/// A store of one entry, and the data behind it.
struct World {
    table: Arc<GenerationTable>,
    slot: Mutex<Option<Stored>>,
    /// Not shuttle's: another thread may not run where these are read.
    committed: AtomicU64,
    acknowledged: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let (committed, acknowledged) = (AtomicU64::new(1), AtomicU64::new(0));
        Arc::new(Self { table: GenerationTable::new(), slot: Mutex::new(None), committed, acknowledged })
    }

    /// Loads an entry: mints, reads the data, stores under the cell that is there by then.
    fn load(&self) {
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
            // As in moka, a replaced entry drops its cells outside every lock of the table.
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

    /// Checks that a hit shows every version that was acknowledged before the lookup.
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
                    world.load();
                    world.read();
                },
                |world| {
                    world.load();
                    world.evict();
                    world.load();
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
        assert_eq!(world.table.len(), 0, "a group that is not in use is left behind");
    });
}

#[test]
fn a_load_and_an_invalidation_in_every_order() {
    explore_all(|| {
        let world = World::new();
        at_once(&world, [World::load, World::change]);
        world.read();
        world.evict();
        assert_eq!(world.table.len(), 0, "a group that is not in use is left behind");
    });
}

/// One thread drops the cell of the group while another finds it.
fn hold_and_drop(rounds: usize) {
    let table = GenerationTable::new();
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
    assert_eq!(table.len(), 0, "a group that is not in use is left behind");
}

#[test]
fn a_group_has_one_cell_while_it_is_held() {
    explore("a_group_has_one_cell_while_it_is_held", || hold_and_drop(3));
}

#[test]
fn holding_and_dropping_once_in_every_order() {
    explore_all(|| hold_and_drop(1));
}

#[test]
fn no_generation_is_handed_out_twice() {
    explore("no_generation_is_handed_out_twice", || {
        let table = GenerationTable::new();
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
        // After two bumps of one group, both threads may see the generation of the second.
        seen.sort_by_key(|generation| generation.map(Generation::get));
        seen.dedup();
        assert!(seen.len() >= 4, "a generation was used twice: {seen:?}");
    });
}
