//! Runs a test under many schedules of its tasks, which shuttle chooses: at random, by probabilistic
//! concurrency testing (Burckhardt et al., ASPLOS 2010), or all there are. Part of the unit tests of
//! the crates that have such tests, as only these see the crate's own types.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How many schedules of each kind for each seed.
const SCHEDULES: usize = 1000;
/// Two of them the same every time, two new ones.
const SEEDS: u64 = 4;
/// How many preemptions a schedule of the second kind has, at most, and one.
const DEPTH: usize = 4;
/// More schedules than this are not all run.
const ALL_AT_MOST: usize = 1_000_000;

/// Runs `test` under random schedules: `GROUPCACHE_TEST_SCALE` times as many as in CI, or those of the
/// seed that `GROUPCACHE_TEST_SEED` names, to repeat a failure.
pub(crate) fn explore(name: &str, test: impl Fn() + Clone + Send + Sync + 'static) {
    let number = |variable| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    let fresh = RandomState::new();
    let seeds: Vec<u64> = match number("GROUPCACHE_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..SEEDS * number("GROUPCACHE_TEST_SCALE").unwrap_or(1))
            .map(|at| if at % 2 == 0 { at } else { fresh.hash_one(at) })
            .collect(),
    };
    for seed in seeds {
        let run = AssertUnwindSafe(|| {
            let random = RandomScheduler::new_from_seed(seed, SCHEDULES);
            Runner::new(random, config()).run(test.clone());
            let few_preemptions = PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES);
            Runner::new(few_preemptions, config()).run(test.clone());
        });
        if let Err(panic) = catch_unwind(run) {
            eprintln!(
                "repeat with `GROUPCACHE_TEST_SEED={seed} RUSTC_WORKSPACE_WRAPPER=$PWD/tests/rustc-with-mutants \
                 cargo test -p {} --lib {name}`",
                env!("CARGO_PKG_NAME")
            );
            resume_unwind(panic);
        }
    }
}

/// Runs `test`, which has to be small, under all schedules there are.
pub(crate) fn explore_all(test: impl Fn() + Send + Sync + 'static) {
    let all = DfsScheduler::new(Some(ALL_AT_MOST), false);
    let run = Runner::new(all, config()).run(test);
    println!("{run} schedules, which are all");
    assert!(run < ALL_AT_MOST, "there are more schedules than {ALL_AT_MOST}");
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config
}
