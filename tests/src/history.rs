//! The check of the first promise: every read against the newest invalidation that was acknowledged
//! before it began.
//!
//! A world of rows with version numbers. Writers raise the version of a row, then invalidate its
//! group, and note the version once that was acknowledged. Readers note what is acknowledged, read a
//! page of one or two rows through a cache, and complain if it shows less than they noted.

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

/// How to run a history.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct Plan {
    /// How many rows there are, each a group of its own.
    pub rows: usize,
    /// How many pages show the same row: the more there are, the longer one of them is not looked at,
    /// and the older is what may come back.
    pub pages: usize,
    /// How many tasks read.
    pub readers: usize,
    /// How many tasks change rows.
    pub writers: usize,
    /// How long a writer rests after each change.
    pub pause: Duration,
    /// How many reads and invalidations to do at least.
    pub operations: u64,
    /// What else a history ends by.
    pub time_limit: Duration,
    /// When a writer tells the cache.
    pub order: Order,
}

/// When a writer tells the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose one")]
pub enum Order {
    /// As the rules have it.
    CommitThenInvalidate,
    /// Wrong: what is cached between the two stays.
    InvalidateThenCommit,
}

/// What happened.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Reads, each of which was answered.
    pub reads: u64,
    /// Reads that ran no computation of their own.
    pub cached: u64,
    /// Invalidations that were acknowledged.
    pub acknowledged: u64,
    /// Invalidations that were not.
    pub failed: u64,
    /// Reads that returned less than they had to.
    pub stale: u64,
    /// The first of them.
    pub first_stale: Option<String>,
    /// The longest that a read took.
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
    /// For what is wrong on purpose: enough operations to find it.
    #[must_use]
    pub fn short() -> Self {
        Self { operations: 5_000, time_limit: Duration::from_secs(20), ..Self::default() }
    }

    /// Many invalidations under way at once, and pages that are not looked at for a while.
    #[must_use]
    pub fn with_many_writers(self) -> Self {
        Self { writers: 12, pages: 24, pause: Duration::from_millis(15), ..self }
    }
}

/// Runs what is wrong on purpose until it shows. Whether one run of a few seconds meets the moment at
/// which it matters is up to chance, so it has several.
///
/// # Panics
///
/// If it never shows.
pub async fn finds_stale_reads(mut attempt: impl AsyncFnMut() -> Report) {
    const ATTEMPTS: u32 = 6;
    for _ in 0..ATTEMPTS {
        let report = attempt().await;
        println!("{report}");
        if report.stale > 0 {
            return;
        }
    }
    panic!("nothing found in {ATTEMPTS} attempts");
}

impl Report {
    /// Nothing stale, and enough done for that to mean something.
    ///
    /// # Panics
    ///
    /// Otherwise.
    pub fn assert_sound(&self, plan: &Plan) {
        println!("{self}");
        assert_eq!(self.stale, 0, "{self}");
        let operations = self.reads + self.acknowledged + self.failed;
        assert!(operations >= plan.operations, "only {operations} operations: {self}");
        assert!(self.acknowledged > 100, "hardly an invalidation: {self}");
        assert!(self.cached > self.reads / 20, "hardly a hit: {self}");
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

/// Runs readers and writers on all caches, which share a store, while `faults` goes on; until the
/// faults are over and enough is done.
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
            // Some rows are read far more often than others.
            let row = pick(plan.rows).min(pick(plan.rows));
            let also = (pick(4) == 0).then(|| (row + 1) % plan.rows);
            (row, also, pick(plan.pages), pick(8))
        };
        let rows: Vec<usize> = [Some(row), also].into_iter().flatten().collect();
        let floor: Vec<u64> =
            rows.iter().map(|row| world.acknowledged[*row].load(Ordering::SeqCst)).collect();
        let groups: Vec<Group> = rows.iter().map(|row| group(*row)).collect();
        let ran = AtomicBool::new(false);
        let began = Instant::now();
        let load = async || {
            ran.store(true, Ordering::Relaxed);
            let shown: Vec<u64> =
                rows.iter().map(|row| world.committed[*row].load(Ordering::SeqCst)).collect();
            // What was read is old by the time that it is stored.
            if slow < 2 {
                tokio::time::sleep(Duration::from_millis(1 + slow as u64 * 3)).await;
            }
            Ok::<_, std::convert::Infallible>(shown)
        };
        let Ok(shown) = cache.get_or_load(&("page", &rows, page), groups, load).await;
        own.slowest_read = own.slowest_read.max(began.elapsed());
        own.reads += 1;
        own.cached += u64::from(!ran.load(Ordering::Relaxed));
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

/// Each writer has rows of its own, so that versions are acknowledged in order.
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

/// So many, or as many as the environment says in `GROUPCACHE_HISTORY_OPERATIONS`.
#[must_use]
pub fn operations(unless_set: u64) -> u64 {
    let set = std::env::var("GROUPCACHE_HISTORY_OPERATIONS").ok();
    set.and_then(|count| count.parse().ok()).unwrap_or(unless_set)
}

fn group(row: usize) -> Group {
    Group::new("row").with("id", row)
}
