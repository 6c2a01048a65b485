//! Histories: readers and writers of caches on real servers, and a check of every read.
//!
//! Each row has a version. A writer commits the next version of a row, invalidates its group, and records
//! the version once the invalidation is acknowledged. A reader notes the acknowledged versions, reads a page
//! of one or two rows through a cache, and reports a stale read if the page shows an older version.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use groupcache_core::{Backend, Cache, Group};
use rand::RngExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How a history runs.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct Plan {
    /// The number of rows, each with a group of its own.
    pub rows: usize,
    /// The number of pages of the same row. With more pages, each is read less often, so an older entry can
    /// return.
    pub pages: usize,
    /// The number of tasks that read.
    pub readers: usize,
    /// The number of tasks that change rows.
    pub writers: usize,
    /// How long a writer sleeps after each change.
    pub pause: Duration,
    /// The minimum number of reads and invalidations.
    pub operations: u64,
    /// The maximum duration.
    pub time_limit: Duration,
    /// The order of a commit and its invalidation.
    pub order: Order,
}

/// The order of a commit and its invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose one")]
pub enum Order {
    /// The correct order.
    CommitThenInvalidate,
    /// The wrong order: an entry that is stored between the two stays valid.
    InvalidateThenCommit,
}

/// What happened during a history.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Reads, all of which returned a page.
    pub reads: u64,
    /// Reads without a load of their own.
    pub cached: u64,
    /// Invalidations that were acknowledged.
    pub acknowledged: u64,
    /// Invalidations that failed.
    pub failed: u64,
    /// Stale reads.
    pub stale: u64,
    /// The first stale read.
    pub first_stale: Option<String>,
    /// The duration of the slowest read.
    pub slowest_read: Duration,
}

struct World {
    committed: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
    operations: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rows: 24,
            pages: 4,
            readers: 16,
            writers: 4,
            pause: Duration::from_millis(1),
            operations: operations(50_000),
            time_limit: Duration::from_secs(180),
            order: Order::CommitThenInvalidate,
        }
    }
}

impl Plan {
    /// Returns a plan with enough operations to find a mistake.
    #[must_use]
    pub fn short() -> Self {
        Self { operations: 5_000, time_limit: Duration::from_secs(20), ..Self::default() }
    }

    /// Has many invalidations in flight at once, and pages that are seldom read.
    #[must_use]
    pub fn with_many_writers(self) -> Self {
        Self { writers: 12, pages: 24, pause: Duration::from_millis(15), ..self }
    }
}

/// Repeats a history with a mistake until it has a stale read.
///
/// Chance decides whether a run of a few seconds has one, so several runs are allowed.
///
/// # Panics
///
/// Panics if no run has a stale read.
pub async fn finds_stale_reads(mut attempt: impl AsyncFnMut() -> Report) {
    const ATTEMPTS: u32 = 6;
    for _ in 0..ATTEMPTS {
        let report = attempt().await;
        println!("{report}");
        if report.stale > 0 {
            return;
        }
    }
    panic!("no stale read in {ATTEMPTS} attempts");
}

impl Report {
    /// Asserts that no read was stale, and that there were enough operations, invalidations and hits.
    ///
    /// # Panics
    ///
    /// Panics otherwise.
    pub fn assert_sound(&self, plan: &Plan) {
        println!("{self}");
        assert_eq!(self.stale, 0, "{self}");
        let operations = self.reads + self.acknowledged + self.failed;
        assert!(operations >= plan.operations, "only {operations} operations: {self}");
        assert!(self.acknowledged > 100, "too few invalidations: {self}");
        assert!(self.cached > self.reads / 20, "too few hits: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads ({} cached, {} stale, slowest {:?}), {} invalidations acknowledged and {} not",
            self.reads, self.cached, self.stale, self.slowest_read, self.acknowledged, self.failed
        )?;
        self.first_stale.as_ref().map_or(Ok(()), |first| write!(f, "; {first}"))
    }
}

/// Runs readers and writers on all caches, which share a store.
///
/// Ends when `faults` is over and the plan is done.
pub async fn run<B: Backend>(caches: &[Cache<B>], plan: Plan, faults: impl Future<Output = ()>) -> Report {
    let versions = || (0..plan.rows).map(|_| AtomicU64::new(1)).collect();
    let world = Arc::new(World {
        committed: versions(),
        acknowledged: (0..plan.rows).map(|_| AtomicU64::new(0)).collect(),
        operations: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        report: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for reader in 0..plan.readers {
        let cache = caches[reader % caches.len()].clone();
        tasks.spawn(read(Arc::clone(&world), cache, plan));
    }
    for writer in 0..plan.writers {
        let caches = caches.to_vec();
        tasks.spawn(write(Arc::clone(&world), caches, writer, plan));
    }
    let began = Instant::now();
    faults.await;
    while world.operations.load(Ordering::Relaxed) < plan.operations && began.elapsed() < plan.time_limit {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task panics");
    }
    std::mem::take(&mut *world.report.lock().await)
}

async fn read<B: Backend>(world: Arc<World>, cache: Cache<B>, plan: Plan) {
    let mut own = Report::default();
    while !world.stop.load(Ordering::Relaxed) {
        let (row, also, page, slow) = {
            let mut random = rand::rng();
            let mut pick = |limit: usize| random.random_range(0..limit);
            // Rows with low numbers are read far more often.
            let row = pick(plan.rows).min(pick(plan.rows));
            let also = (pick(4) == 0).then(|| (row + 1) % plan.rows);
            (row, also, pick(plan.pages), pick(8))
        };
        let rows: Vec<usize> = [Some(row), also].into_iter().flatten().collect();
        let floor: Vec<u64> =
            rows.iter().map(|row| world.acknowledged[*row].load(Ordering::SeqCst)).collect();
        let groups: Vec<Group> = rows.iter().map(|row| group(*row)).collect();
        let loaded = AtomicBool::new(false);
        let began = Instant::now();
        let load = async || {
            loaded.store(true, Ordering::Relaxed);
            let shown: Vec<u64> =
                rows.iter().map(|row| world.committed[*row].load(Ordering::SeqCst)).collect();
            // A slow load makes it likely that the row changes before the page is stored.
            if slow < 2 {
                tokio::time::sleep(Duration::from_millis(1 + slow as u64 * 3)).await;
            }
            Ok::<_, std::convert::Infallible>(shown)
        };
        let Ok(shown) = cache.get_or_load(&("page", &rows, page), groups, load).await;
        own.slowest_read = own.slowest_read.max(began.elapsed());
        own.reads += 1;
        own.cached += u64::from(!loaded.load(Ordering::Relaxed));
        if shown.iter().zip(&floor).any(|(shown, floor)| shown < floor) {
            own.stale += 1;
            own.first_stale.get_or_insert_with(|| format!("rows {rows:?} at {shown:?}, not {floor:?}"));
        }
        world.operations.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    let mut all = world.report.lock().await;
    all.reads += own.reads;
    all.cached += own.cached;
    all.stale += own.stale;
    all.slowest_read = all.slowest_read.max(own.slowest_read);
    all.first_stale = all.first_stale.take().or(own.first_stale);
}

/// Changes rows of its own, so that their versions are acknowledged in order.
async fn write<B: Backend>(world: Arc<World>, caches: Vec<Cache<B>>, writer: usize, plan: Plan) {
    let mut own = Report::default();
    let rows: Vec<usize> = (writer..plan.rows).step_by(plan.writers).collect();
    while !world.stop.load(Ordering::Relaxed) {
        let (row, cache) = {
            let mut random = rand::rng();
            (rows[random.random_range(0..rows.len())], &caches[random.random_range(0..caches.len())])
        };
        let version = world.committed[row].load(Ordering::SeqCst) + 1;
        let commit = || world.committed[row].store(version, Ordering::SeqCst);
        if plan.order == Order::CommitThenInvalidate {
            commit();
        }
        let invalidated = cache.invalidate(group(row)).await;
        if plan.order == Order::InvalidateThenCommit {
            tokio::time::sleep(Duration::from_millis(2)).await;
            commit();
        }
        if invalidated.is_ok() {
            own.acknowledged += 1;
            world.acknowledged[row].store(version, Ordering::SeqCst);
        } else {
            own.failed += 1;
        }
        world.operations.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(plan.pause).await;
    }
    let mut all = world.report.lock().await;
    all.acknowledged += own.acknowledged;
    all.failed += own.failed;
}

/// Returns `GROUPCACHE_HISTORY_OPERATIONS` from the environment, or `default` if it is not set.
#[must_use]
pub fn operations(default: u64) -> u64 {
    let set = std::env::var("GROUPCACHE_HISTORY_OPERATIONS").ok();
    set.and_then(|count| count.parse().ok()).unwrap_or(default)
}

fn group(row: usize) -> Group {
    Group::new("row").with("id", row)
}
