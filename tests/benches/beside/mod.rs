//! One thing beside another, in turns.

use std::time::Duration;

use tokio::time::Instant;

/// The throughput of one as a part of that of the bare other: the median of many short turns of one
/// after the other, so that whatever else the machine does meanwhile troubles both alike.
pub(crate) async fn throughput_beside<One, Other>(
    concurrency: usize,
    bare: impl Fn() -> One + Clone + Send + 'static,
    measured: impl Fn() -> Other + Clone + Send + 'static,
) -> f64
where
    One: Future<Output = ()> + Send + 'static,
    Other: Future<Output = ()> + Send + 'static,
{
    let share = 512_usize.div_ceil(concurrency);
    let mut ratios = Vec::new();
    for _ in 0..61 {
        let before = run(concurrency, share, bare.clone()).await;
        let took = run(concurrency, share, measured.clone()).await;
        let after = run(concurrency, share, bare.clone()).await;
        ratios.push((before + after).as_secs_f64() / 2.0 / took.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// How long it takes that many tasks to do it that many times each.
pub(crate) async fn run<Fut: Future<Output = ()> + Send + 'static>(
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
