//! Every read of many, against the newest version whose invalidation was acknowledged before it began.

use std::sync::Arc;
use std::time::Duration;

use groupcache_conformance::{HistoryRecorder, scale};
use groupcache_memcached::MemcachedBackend;
use groupcache_memory::MemoryBackend;
use groupcache_redis::RedisBackend;
use groupcache_tests::memcached_server::MemcachedServer;
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::turns;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::process::{Page, Process, Written, open, watches};
use crate::relay::Running;

const TRANSACTION_WRITERS: usize = 8;
const SQL_WRITERS: usize = 2;
const READERS: usize = 32;

/// Multiplied by `GROUPCACHE_TEST_SCALE`, as is the number of crashes.
const SECONDS: u64 = 2;

/// Runs the history in these processes. A write counts once every process must show it.
async fn run(processes: Vec<Process>) -> HistoryRecorder {
    let _turn = turns::history().await;
    processes[0].outbox.install(&watches()).await.unwrap();
    let relays: Vec<_> = processes.iter().map(|process| Running::spawn(process.outbox.relay())).collect();
    // A process with its own cache is ready once its relay has read.
    for process in &processes {
        process.outbox.flush_all().await.unwrap();
    }
    let history = HistoryRecorder::new(0);
    let end = Instant::now() + Duration::from_secs(SECONDS * scale() as u64);
    let processes = Arc::new(processes);
    let mut tasks = JoinSet::new();
    for n in 0..READERS {
        let (processes, history) = (Arc::clone(&processes), history.clone());
        tasks.spawn(async move {
            while Instant::now() < end {
                let page = Page::random();
                let began = history.begin_read();
                let version = processes[n % processes.len()].read(page).await.unwrap();
                history.record_read(page.key(), began, version.unsigned_abs());
                tokio::task::yield_now().await;
            }
        });
    }
    for n in 0..TRANSACTION_WRITERS + SQL_WRITERS {
        let (processes, history) = (Arc::clone(&processes), history.clone());
        tasks.spawn(async move {
            while Instant::now() < end {
                let process = &processes[n % processes.len()];
                for (page, version) in write(process, n < TRANSACTION_WRITERS).await.unwrap_or_default() {
                    // The transaction promises it to its own process, the relay to the others.
                    if processes.len() > 1 {
                        flush(&processes).await;
                    }
                    history.record_invalidation(page.key(), version.unsigned_abs());
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    for relay in relays {
        relay.stop().await;
    }
    history
}

async fn flush(processes: &[Process]) {
    for process in processes {
        process.outbox.flush_all().await.unwrap();
    }
}

/// Writes through a transaction that waits for its invalidation, or plainly, and then waits for the relay.
async fn write(process: &Process, through_transaction: bool) -> Option<Written> {
    if through_transaction {
        return process.write_and_invalidate().await;
    }
    let (written, number) = process.write_plainly().await.ok()?;
    process.outbox.flush(number).await.unwrap();
    Some(written)
}

fn assert_sound(history: &HistoryRecorder) {
    let checked = history.check().unwrap_or_else(|stale| panic!("{stale}"));
    println!("{checked:?}");
    assert!(checked.reads > 1000 && checked.invalidations > 50, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_in_memory() {
    let Some(database) = open().await else { return };
    let process = Process::new(&database.pool, MemoryBackend::with_max_bytes(16 << 20));
    assert_sound(&run(vec![process]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_in_the_memory_of_several_processes() {
    let Some(database) = open().await else { return };
    let process = || Process::in_memory(&database.pool);
    assert_sound(&run(vec![process(), process()]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_on_redis() {
    let (Some(database), Some(server)) = (open().await, RedisServer::start(&[])) else { return };
    let backend = RedisBackend::builder(server.url()).build().unwrap();
    assert_sound(&run(vec![Process::new(&database.pool, backend)]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_stale_on_memcached() {
    let (Some(database), Some(server)) = (open().await, MemcachedServer::start(&[])) else { return };
    let backend = MemcachedBackend::builder(server.url()).build().unwrap();
    assert_sound(&run(vec![Process::new(&database.pool, backend)]).await);
}
