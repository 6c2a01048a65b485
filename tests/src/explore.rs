//! Runs a test under many schedules of its tasks.
//!
//! shuttle chooses the schedules: at random, by probabilistic concurrency testing (Burckhardt et al., ASPLOS
//! 2010), or all of them. The crates include this file in their unit tests, as only those see private types.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How many schedules of each kind each seed gives.
const SCHEDULES: usize = 1000;
/// Half of the seeds are the same in every run, half are new.
const SEEDS: u64 = 4;
/// One more than the maximum number of preemptions of a schedule by probabilistic concurrency testing.
const DEPTH: usize = 4;
/// The maximum number of schedules of a test that runs under all of them.
const ALL_SCHEDULES_MAX: usize = 1_000_000;

/// Runs `test` under random schedules.
///
/// `GROUPCACHE_TEST_SCALE` is a factor of their number. `GROUPCACHE_TEST_SEED` is the only seed, which
/// repeats a failure.
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

/// Runs `test` under all schedules. The test has to be small.
pub(crate) fn explore_all(test: impl Fn() + Send + Sync + 'static) {
    let all = DfsScheduler::new(Some(ALL_SCHEDULES_MAX), false);
    let run = Runner::new(all, config()).run(test);
    println!("all {run} schedules");
    assert!(run < ALL_SCHEDULES_MAX, "there are more than {ALL_SCHEDULES_MAX} schedules");
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config
}
