//! Compares two operations that take turns.

use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// The approximate duration of all turns together.
const TOTAL: Duration = Duration::from_secs(20);
/// The approximate minimum duration of one turn.
const TURN: Duration = Duration::from_millis(500);
/// The minimum repetitions of each task in a turn, so that the start of the task does not matter.
const SHARE: usize = 32;

/// Measures `bare` and `measured` alone and in turns, in `concurrency` tasks that repeat the operation.
///
/// A filter on the command line selects rows that contain it.
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

/// Returns the throughput of `measured` as a fraction of that of `bare`: the median of several rounds.
///
/// In a round both have two turns close together, so that other load on the machine affects both alike. The
/// order is bare, measured, measured, bare, or the reverse, at random. So each follows itself as often as the
/// other, as a connection or a cache that was just used is faster. Turns are long, as a single task may start
/// on the core of the server and be twice as fast until the kernel moves it.
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

/// Returns how long `concurrency` tasks take to repeat the operation `share` times each.
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
            // More than `iterations`, as each task has the same share.
            let done = f64::from(u32::try_from(share * concurrency).expect("not that many"));
            took.mul_f64(iterations as f64 / done)
        });
    });
}
