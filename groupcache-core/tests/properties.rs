//! Random sequences of reads, writes, invalidations, evictions and the passing of time, against a model of
//! a cache.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_conformance::doubles::PlainBackend;
use groupcache_conformance::{scale, seeds};
use groupcache_core::{
    Backend, Cache, EntryOptions, Error, ErrorKind, Group, Groups, Key, LoadContext, ManualClock, depend,
};
use groupcache_memory::MemoryBackend;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use tokio::runtime::Runtime;

const KEYS: u8 = 4;
const GROUPS: u8 = 5;
const TIME_TO_LIVE_MS: u64 = 1000;
/// Time passes in multiples of this, so that steps often hit the exact end of a time to live or a window.
const STEP_MS: u64 = 250;

/// The version of each group's data that a value was loaded from.
type Versions = BTreeMap<u8, u64>;

#[derive(Debug, Clone)]
enum Step {
    /// Reads a key. Its load depends on the discovered groups before it reads their data.
    Read {
        key: u8,
        discovered: BTreeSet<u8>,
    },
    /// Reads a key twice in a row. Its load discovers the late groups after it has read their data, so
    /// the first value may not be stored and the second one is.
    ReadLate {
        key: u8,
        late: BTreeSet<u8>,
    },
    /// Reads a key whose load fails.
    ReadFailing(u8),
    /// Looks a key up without a load.
    Get(u8),
    GetMany,
    /// Inserts a key. Its load discovers groups before and after it reads their data.
    Insert {
        key: u8,
        discovered: BTreeSet<u8>,
        late: BTreeSet<u8>,
    },
    /// Changes the data of these groups and invalidates them.
    Change(BTreeSet<u8>),
    /// Changes the data of a group without an invalidation, so entries stay valid.
    ChangeSilently(u8),
    Delete(u8),
    /// The store drops an entry.
    Evict(u8),
    /// The store loses a generation, if it can.
    Lose(u8),
    Pass {
        ms: u64,
    },
}

/// A cache: entries that are valid until one of their groups is invalidated or they expire.
#[derive(Debug, Clone, Default)]
struct Model {
    data: Versions,
    entries: BTreeMap<u8, Cached>,
    /// The groups that loads of a key have discovered so far.
    discovered: BTreeMap<u8, BTreeSet<u8>>,
    now_ms: u64,
    loses: bool,
    windows: Windows,
    /// What the last step has to return, and how often it has to load.
    expected: Expected,
}

#[derive(Debug, Clone)]
struct Cached {
    value: Versions,
    expires_at_ms: u64,
    valid: bool,
}

/// How long after its time to live a value may be served during a refresh, and after a failed load.
#[derive(Debug, Clone, Copy, Default)]
struct Windows {
    while_revalidate_ms: u64,
    if_error_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Expected {
    values: Vec<Option<Versions>>,
    /// At least and at most, as a process may forget the discovered groups of a key.
    loads: (u64, u64),
}

fn named(key: u8) -> BTreeSet<u8> {
    [key % GROUPS, (key + 1) % GROUPS].into()
}

fn group(group: u8) -> Group {
    Group::new("data").with("group", group)
}

fn groups(of: &BTreeSet<u8>) -> Groups {
    of.iter().map(|one| group(*one)).collect()
}

impl Model {
    fn hit(&self, key: u8) -> Option<Versions> {
        let entry = self.entries.get(&key)?;
        (entry.valid && entry.expires_at_ms > self.now_ms).then(|| entry.value.clone())
    }

    /// What is served if the load fails: an expired value, within either window.
    fn stale_after_failure(&self, key: u8) -> Option<Versions> {
        let entry = self.entries.get(&key)?;
        let until_ms = entry.expires_at_ms + self.windows.if_error_ms.max(self.windows.while_revalidate_ms);
        (entry.valid && until_ms > self.now_ms).then(|| entry.value.clone())
    }

    fn load(&mut self, key: u8, discovered: &BTreeSet<u8>) -> Versions {
        self.discovered.entry(key).or_default().extend(discovered);
        let of = named(key).into_iter().chain(discovered.iter().copied());
        let value: Versions = of.map(|group| (group, self.data.get(&group).copied().unwrap_or(0))).collect();
        let expires_at_ms = self.now_ms + TIME_TO_LIVE_MS;
        self.entries.insert(key, Cached { value: value.clone(), expires_at_ms, valid: true });
        value
    }

    fn invalidate(&mut self, group: u8) {
        for entry in self.entries.values_mut().filter(|entry| entry.value.contains_key(&group)) {
            entry.valid = false;
        }
    }

    fn step(&mut self, step: &Step) {
        self.expected = Expected::default();
        match step {
            Step::Read { key, discovered } => {
                let hit = self.hit(*key);
                let loads = u64::from(hit.is_none());
                let value = hit.unwrap_or_else(|| self.load(*key, discovered));
                self.expected = Expected { values: vec![Some(value)], loads: (loads, loads) };
            }
            Step::ReadLate { key, late } => {
                let loads = match self.hit(*key) {
                    Some(_) => (0, 0),
                    None if late.is_subset(&named(*key)) => (1, 1),
                    // They are not late if the process remembers them.
                    None if self.discovered.get(key).is_some_and(|known| !known.is_disjoint(late)) => (1, 2),
                    None => (2, 2),
                };
                let value = self.hit(*key).unwrap_or_else(|| self.load(*key, late));
                self.expected = Expected { values: vec![Some(value); 2], loads };
            }
            Step::ReadFailing(key) => {
                let hit = self.hit(*key);
                let loads = u64::from(hit.is_none());
                let value = hit.or_else(|| self.stale_after_failure(*key));
                self.expected = Expected { values: vec![value], loads: (loads, loads) };
            }
            Step::Get(key) => self.expected.values = vec![self.hit(*key)],
            Step::GetMany => self.expected.values = (0..KEYS).map(|key| self.hit(key)).collect(),
            Step::Insert { key, discovered, late } => {
                let mut known = named(*key);
                known.extend(discovered);
                let remembered = self.discovered.get(key).into_iter().flatten().copied();
                let loads = if late.is_subset(&known) {
                    (1, 1)
                } else if late.is_subset(&known.into_iter().chain(remembered).collect()) {
                    // They are not late if the process remembers them.
                    (1, 2)
                } else {
                    (2, 2)
                };
                let value = self.load(*key, &(discovered | late));
                self.expected = Expected { values: vec![Some(value)], loads };
            }
            Step::Change(changed) => {
                for group in changed {
                    *self.data.entry(*group).or_default() += 1;
                    self.invalidate(*group);
                }
            }
            Step::ChangeSilently(group) => *self.data.entry(*group).or_default() += 1,
            Step::Delete(key) | Step::Evict(key) => drop(self.entries.remove(key)),
            Step::Lose(group) if self.loses => self.invalidate(*group),
            Step::Lose(_) => {}
            Step::Pass { ms } => self.now_ms += ms,
        }
    }
}

struct Machine<const LOSES: bool>;

impl<const LOSES: bool> ReferenceStateMachine for Machine<LOSES> {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        let window = || (0..8_u64).prop_map(|steps| steps * STEP_MS);
        (window(), window())
            .prop_map(|(while_revalidate_ms, if_error_ms)| Model {
                loses: LOSES,
                windows: Windows { while_revalidate_ms, if_error_ms },
                ..Model::default()
            })
            .boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Step> {
        let discovered = || prop::collection::btree_set(0..GROUPS, 0..2);
        prop_oneof![
            8 => (0..KEYS, discovered()).prop_map(|(key, discovered)| Step::Read { key, discovered }),
            2 => (0..KEYS, prop::collection::btree_set(0..GROUPS, 1..3))
                .prop_map(|(key, late)| Step::ReadLate { key, late }),
            2 => (0..KEYS).prop_map(Step::ReadFailing),
            2 => (0..KEYS).prop_map(Step::Get),
            1 => Just(Step::GetMany),
            1 => (0..KEYS, discovered(), discovered())
                .prop_map(|(key, discovered, late)| Step::Insert { key, discovered, late }),
            3 => prop::collection::btree_set(0..GROUPS, 1..3).prop_map(Step::Change),
            1 => (0..GROUPS).prop_map(Step::ChangeSilently),
            1 => (0..KEYS).prop_map(Step::Delete),
            1 => (0..KEYS).prop_map(Step::Evict),
            1 => (0..GROUPS).prop_map(Step::Lose),
            2 => (1..4_u64).prop_map(|steps| Step::Pass { ms: steps * STEP_MS }),
        ]
        .boxed()
    }

    fn apply(mut state: Model, step: &Step) -> Model {
        state.step(step);
        state
    }
}

/// A store whose data a test can remove.
trait Subject: Backend {
    fn new(clock: ManualClock) -> Self;
    fn evict(&self, key: &Key);
    fn lose(&self, group: &Group);
}

impl Subject for MemoryBackend {
    fn new(clock: ManualClock) -> Self {
        Self::builder().clock(clock).build()
    }

    fn evict(&self, key: &Key) {
        futures_util::FutureExt::now_or_never(self.delete(key)).unwrap().unwrap();
    }

    fn lose(&self, _: &Group) {}
}

impl Subject for PlainBackend {
    fn new(clock: ManualClock) -> Self {
        Self::with_clock(clock)
    }

    fn evict(&self, key: &Key) {
        Self::evict(self, key);
    }

    fn lose(&self, group: &Group) {
        self.lose_group(group);
    }
}

struct Tested<B> {
    runtime: Runtime,
    cache: Cache<B>,
    clock: ManualClock,
    data: Arc<Mutex<Versions>>,
}

thread_local! {
    /// How many steps the test on this thread has taken.
    static OPERATIONS: Cell<usize> = const { Cell::new(0) };
}

impl<B: Subject> Tested<B> {
    fn new(windows: Windows) -> Self {
        let clock = ManualClock::new();
        let options = EntryOptions::new()
            .time_to_live(Duration::from_millis(TIME_TO_LIVE_MS))
            .stale_while_revalidate(Duration::from_millis(windows.while_revalidate_ms))
            .stale_if_error(Duration::from_millis(windows.if_error_ms));
        let cache = Cache::builder(B::new(clock.clone())).clock(clock.clone()).options(options).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { runtime, cache, clock, data: Arc::default() }
    }

    fn step(&self, step: Step) -> Vec<Option<Versions>> {
        OPERATIONS.set(OPERATIONS.get() + 1);
        let cache = &self.cache;
        let loader_with = |key: u8, discovered: BTreeSet<u8>, late: BTreeSet<u8>| {
            let data = Arc::clone(&self.data);
            move || async move {
                depend(groups(&discovered)).await;
                let data = data.lock().unwrap();
                if !late.is_empty() {
                    LoadContext::current().unwrap().depend_late(groups(&late));
                }
                let of = named(key).into_iter().chain(discovered).chain(late);
                of.map(|group| (group, data.get(&group).copied().unwrap_or(0))).collect::<Versions>()
            }
        };
        let loader = |key, discovered| loader_with(key, discovered, BTreeSet::new());
        self.runtime.block_on(async move {
            match step {
                Step::Read { key, discovered } => {
                    let loader = loader(key, discovered);
                    let read = cache.get_or_load(&key, groups(&named(key)), || async move {
                        Ok::<_, Infallible>(loader().await)
                    });
                    vec![Some(read.await.unwrap())]
                }
                Step::ReadLate { key, late } => {
                    let mut values = Vec::new();
                    for _ in 0..2 {
                        let loader = loader_with(key, BTreeSet::new(), late.clone());
                        let read = cache.get_or_load(&key, groups(&named(key)), || async move {
                            Ok::<_, Infallible>(loader().await)
                        });
                        values.push(Some(read.await.unwrap()));
                    }
                    values
                }
                Step::ReadFailing(key) => {
                    let failing = || async { Err::<Versions, _>("the test fails here") };
                    vec![cache.get_or_load(&key, groups(&named(key)), failing).await.ok()]
                }
                Step::Get(key) => vec![cache.get(&key, groups(&named(key))).await],
                Step::GetMany => cache.get_many((0..KEYS).map(|key| (key, groups(&named(key))))).await,
                Step::Insert { key, discovered, late } => {
                    let insert = || {
                        let loader = loader_with(key, discovered.clone(), late.clone());
                        let load = || async move { Ok::<_, Error>(loader().await) };
                        cache.insert(&key, groups(&named(key)), load)
                    };
                    let value = match insert().await {
                        Ok(value) => value,
                        // From now on the process knows them.
                        Err(error) if error.kind() == ErrorKind::LateGroups => insert().await.unwrap(),
                        Err(error) => panic!("{error}"),
                    };
                    vec![Some(value)]
                }
                Step::Change(changed) => {
                    for group in &changed {
                        *self.data.lock().unwrap().entry(*group).or_default() += 1;
                    }
                    cache.invalidate(groups(&changed)).await.unwrap();
                    vec![]
                }
                Step::ChangeSilently(group) => {
                    *self.data.lock().unwrap().entry(group).or_default() += 1;
                    vec![]
                }
                Step::Delete(key) => {
                    cache.delete(&key).await.unwrap();
                    vec![]
                }
                Step::Evict(key) => {
                    cache.backend().evict(&Key::of(&key).unwrap());
                    vec![]
                }
                Step::Lose(lost) => {
                    cache.backend().lose(&group(lost));
                    vec![]
                }
                Step::Pass { ms } => {
                    self.clock.advance(Duration::from_millis(ms));
                    vec![]
                }
            }
        })
    }
}

struct Test<B, const LOSES: bool>(std::marker::PhantomData<B>);

impl<B: Subject, const LOSES: bool> StateMachineTest for Test<B, LOSES> {
    type SystemUnderTest = Tested<B>;
    type Reference = Machine<LOSES>;

    fn init_test(model: &Model) -> Tested<B> {
        Tested::new(model.windows)
    }

    fn apply(tested: Tested<B>, model: &Model, step: Step) -> Tested<B> {
        let loads_before = tested.cache.stats().loads;
        let values = tested.step(step);
        let loads = tested.cache.stats().loads - loads_before;
        let (at_least, at_most) = model.expected.loads;
        assert_eq!(values, model.expected.values, "the returned values");
        assert!((at_least..=at_most).contains(&loads), "{loads} loads, not {at_least} to {at_most}");
        tested
    }
}

/// Keeps the failures that it finds beside this file, and tries them first.
fn follows_the_model<B: Subject, const LOSES: bool>(name: &'static str) {
    let seeds = seeds(2);
    let cases = 550 * u32::try_from(scale()).unwrap() / u32::try_from(seeds.len()).unwrap();
    for seed in seeds {
        follows_the_model_from::<B, LOSES>(name, cases, seed);
    }
    println!("{} operations", OPERATIONS.get());
    if std::env::var("GROUPCACHE_TEST_SEED").is_err() {
        assert!(OPERATIONS.get() >= 100_000 * scale(), "{} operations", OPERATIONS.get());
    }
}

fn follows_the_model_from<B: Subject, const LOSES: bool>(name: &'static str, cases: u32, seed: u64) {
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        source_file: Some(file!()),
        test_name: Some(name),
        ..Config::default()
    };
    let sequences = Machine::<LOSES>::sequential_strategy(185..215);
    let mut runner = TestRunner::new(config.clone());
    let outcome = runner.run(&sequences, |(model, steps, seen)| {
        Test::<B, LOSES>::test_sequential(config.clone(), model, steps, seen);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| {
        panic!(
            "{failure}\nrepeat with `GROUPCACHE_TEST_SEED={seed} cargo test -p groupcache-core --test \
             properties {name}`"
        )
    });
}

#[test]
fn memory_follows_the_model() {
    follows_the_model::<MemoryBackend, false>("memory_follows_the_model");
}

#[test]
fn a_store_that_loses_generations_follows_the_model() {
    follows_the_model::<PlainBackend, true>("a_store_that_loses_generations_follows_the_model");
}
