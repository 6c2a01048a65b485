//! One thing beside another, in turns.

use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// About how long all turns take together.
const TOTAL: Duration = Duration::from_secs(20);
/// About how long one turn takes at least.
const TURN: Duration = Duration::from_millis(500);
/// How often each task does it in a turn at least, for its own start not to count.
const SHARE: usize = 32;

/// Measures `bare` and `measured` by themselves and beside each other, with as many tasks as `concurrency`
/// that do it again and again. A filter on the command line is part of the row's name.
pub(crate) fn compare<Bare, Measured>(
    bench: &mut BenchmarkGroup<'_, WallTime>,
    row: &str,
    runtime: &Runtime,
    concurrency: usize,
    (bare_name, bare): (&str, impl Fn() -> Bare + Clone + Send + 'static),
    measured: impl Fn() -> Measured + Clone + Send + 'static,
) where
    Bare: Future<Output = ()> + Send + 'static,
    Measured: Future<Output = ()> + Send + 'static,
{
    let filter = std::env::args().skip(1).rfind(|argument| !argument.starts_with('-'));
    if filter.is_some_and(|filter| !row.contains(&filter)) {
        return;
    }
    measure(bench, &format!("{bare_name}/{row}"), runtime, concurrency, bare.clone());
    measure(bench, &format!("groupcache/{row}"), runtime, concurrency, measured.clone());
    let ratio = runtime.block_on(throughput_beside(concurrency, bare, measured));
    println!("{row}: {ratio:.2} of the throughput of {bare_name}, in turns");
}

/// The throughput of one as a part of that of the bare other: the median of some rounds in each of which
/// both have two turns close together, so that whatever else the machine does meanwhile troubles both
/// alike. The order is bare, measured, measured, bare, or the other way round, as chance has it: each follows
/// itself as often as the other, as a connection or a cache that was just in use is faster. Long turns: where
/// one task waits for one answer at a time, it may begin on the core that answers and be twice as fast until
/// the kernel moves it, and what counts is what it is like from then on.
async fn throughput_beside<Bare, Measured>(
    concurrency: usize,
    bare: impl Fn() -> Bare + Clone + Send + 'static,
    measured: impl Fn() -> Measured + Clone + Send + 'static,
) -> f64
where
    Bare: Future<Output = ()> + Send + 'static,
    Measured: Future<Output = ()> + Send + 'static,
{
    let took = run(concurrency, 16, bare.clone()).await.max(Duration::from_micros(1));
    let times = |all: Duration, one: Duration| usize::try_from(all.as_nanos() / one.as_nanos()).unwrap_or(1);
    let share = times(16 * TURN, took).clamp(SHARE, 100_000);
    let turn = took.mul_f64(share as f64 / 16.0);
    let rounds = times(TOTAL, 4 * turn).clamp(7, 125);
    let mut ratios = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let bare_first = rand::random::<bool>();
        let mut took = [Duration::ZERO; 2];
        for turn in [bare_first, !bare_first, !bare_first, bare_first] {
            took[usize::from(turn)] += if turn {
                run(concurrency, share, bare.clone()).await
            } else {
                run(concurrency, share, measured.clone()).await
            };
        }
        let [took, bare_took] = took;
        ratios.push(bare_took.as_secs_f64() / took.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// How long it takes that many tasks to do it that many times each.
async fn run<Fut: Future<Output = ()> + Send + 'static>(
    concurrency: usize,
    share: usize,
    once: impl Fn() -> Fut + Clone + Send + 'static,
) -> Duration {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        let once = once.clone();
        tasks.spawn(async move {
            for _ in 0..share {
                once().await;
            }
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

fn measure<Fut: Future<Output = ()> + Send + 'static>(
    bench: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    concurrency: usize,
    once: impl Fn() -> Fut + Clone + Send + 'static,
) {
    bench.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let share = usize::try_from(iterations).unwrap_or(usize::MAX).div_ceil(concurrency);
            let took = runtime.block_on(run(concurrency, share, once.clone()));
            // Some more than asked for.
            let done = f64::from(u32::try_from(share * concurrency).expect("not that many"));
            took.mul_f64(iterations as f64 / done)
        });
    });
}
