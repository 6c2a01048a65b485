//! Writes with the triggers beside the same writes without, and the lag from a commit to its invalidation.
//!
//! The server is started without `fsync`, so a commit costs less here than on a disk, and the triggers look dearer.
//! Compare the figures of one run with each other, not with those of another run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use groupcache_core::{Group, Groups, Invalidator, RecordingInvalidator, Result};
use groupcache_sqlx::{PgOutbox, Watches, watch};
use groupcache_tests::postgres_server::PostgresServer;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

const TABLE: &str = "(id bigint PRIMARY KEY, author_id bigint NOT NULL, title text NOT NULL DEFAULT '')";

fn main() {
    let Some(server) = PostgresServer::start(0) else { return };
    let runtime = Runtime::new().expect("a runtime");
    let url = server.url("postgres");
    let pool = runtime.block_on(PgPoolOptions::new().max_connections(40).connect(&url)).expect("connects");
    runtime.block_on(async {
        run(&pool, &format!("CREATE TABLE watched {TABLE}; CREATE TABLE plain {TABLE}")).await;
        for table in ["watched", "plain"] {
            let fill = format!("INSERT INTO {table} SELECT n, n % 100 FROM generate_series(1, 10000) AS n");
            run(&pool, &fill).await;
        }
        let outbox = PgOutbox::new(pool.clone(), RecordingInvalidator::default());
        outbox.install(&watches()).await.expect("installs");
    });
    let mut criterion = Criterion::default().configure_from_args();
    let mut bench = criterion.benchmark_group("update");
    bench.sample_size(20).measurement_time(Duration::from_secs(4));
    for rows in [1, 10_000] {
        bench.throughput(Throughput::Elements(rows));
        for table in ["plain", "watched"] {
            update(&mut bench, &runtime, &pool, table, rows);
        }
    }
    bench.finish();
    criterion.final_summary();
    for (rate, seconds) in [(1, 20), (100, 10), (2000, 10)] {
        runtime.block_on(lag(&pool, rate, seconds));
    }
}

fn watches() -> Watches {
    Watches::new().with(watch("watched").all_rows("book").group("book", ["id"]).group("book", ["author_id"]))
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.expect("runs");
}

/// One statement. What it leaves in the outbox is removed outside of the measurement.
fn update(
    bench: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    pool: &PgPool,
    table: &str,
    rows: u64,
) {
    let sql = format!("UPDATE {table} SET title = 'x' WHERE id <= {rows}");
    bench.bench_function(format!("{rows}_rows/{table}"), |bencher| {
        bencher.to_async(runtime).iter_custom(|iterations| {
            let sql = sql.clone();
            async move {
                let mut connection = pool.acquire().await.expect("a connection");
                let mut total = Duration::ZERO;
                for n in 0..iterations {
                    let start = Instant::now();
                    let update = sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut *connection).await;
                    total += start.elapsed();
                    update.expect("updates");
                    if rows > 1 || n % 100 == 0 {
                        for sql in ["TRUNCATE groupcache.outbox", "VACUUM plain", "VACUUM watched"] {
                            run(pool, sql).await;
                        }
                    }
                }
                total
            }
        });
    });
}

/// Records when each row's group is invalidated.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<HashMap<Group, Instant>>>);

impl Invalidator for Arrivals {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        let now = Instant::now();
        let mut arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups.iter() {
            arrivals.entry(group.clone()).or_insert(now);
        }
        Ok(())
    }
}

/// Inserts rows at a rate, each in a transaction of its own, and prints how long after its commit each is delivered.
async fn lag(pool: &PgPool, rate: u64, seconds: u64) {
    run(pool, "TRUNCATE watched, groupcache.outbox").await;
    let arrivals = Arrivals::default();
    let outbox = PgOutbox::new(pool.clone(), arrivals.clone());
    let relay = tokio::spawn(outbox.relay().run(std::future::pending()));
    sleep(Duration::from_millis(500)).await;
    let writers = rate.min(20);
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut commits = Vec::new();
            let mut tick = interval(Duration::from_secs_f64(writers as f64 / rate as f64));
            let end = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < end {
                tick.tick().await;
                let id = i64::try_from(writer + commits.len() as u64 * writers).expect("few rows");
                let insert = sqlx::query("INSERT INTO watched VALUES ($1, $1 % 100)").bind(id);
                insert.execute(&pool).await.expect("inserts");
                commits.push((id, Instant::now()));
            }
            commits
        });
    }
    let mut commits = Vec::new();
    while let Some(own) = tasks.join_next().await {
        commits.extend(own.expect("writes"));
    }
    let written = outbox.backlog().await.expect("counts").rows;
    outbox.flush_all().await.expect("delivers");
    relay.abort();
    let arrivals = arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lags: Vec<Duration> = commits
        .iter()
        .map(|(id, at)| arrivals[&Group::new("book").with("id", *id)].saturating_duration_since(*at))
        .collect();
    lags.sort_unstable();
    let at = |percent: usize| lags[(lags.len() - 1) * percent / 100];
    println!(
        "lag at {rate} rows a second: {} rows in {seconds} s, median {:?}, 99th percentile {:?}, \
         {written} rows in the outbox at the end",
        lags.len(),
        at(50),
        at(99)
    );
}
