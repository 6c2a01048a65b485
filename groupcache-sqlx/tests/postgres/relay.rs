//! The relay as a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use groupcache_core::{Error, ErrorKind, Groups, Invalidator, RecordingInvalidator, Result};
use groupcache_sqlx::{PgOutbox, PgRelay, Watches, watch};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::server::Database;
use crate::support::{Shop, eventually, names};

/// Far longer than any test: only what wakes the relay makes it deliver.
const NEVER: Duration = Duration::from_secs(3600);

/// A relay in a task of its own.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    pub(crate) fn spawn(relay: PgRelay) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(relay.run(async move { drop(stopped.await) })) }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Acknowledges when it is allowed to; fails while it is broken.
#[derive(Clone)]
struct Gate {
    told: RecordingInvalidator,
    permits: Arc<Semaphore>,
    is_broken: Arc<AtomicBool>,
}

impl Gate {
    fn new(permits: usize) -> Self {
        Self {
            told: RecordingInvalidator::default(),
            permits: Arc::new(Semaphore::new(permits)),
            is_broken: Arc::default(),
        }
    }
}

impl Invalidator for Gate {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        self.permits.acquire().await.unwrap().forget();
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "gate"));
        }
        self.told.invalidate(groups).await
    }
}

fn gated(shop: &Shop, gate: &Gate) -> PgOutbox {
    PgOutbox::new(shop.database.pool.clone(), gate.clone())
}

async fn rows(shop: &Shop) -> u64 {
    shop.outbox.backlog().await.unwrap().rows
}

#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let Some(shop) = Shop::open().await else { return };
    let relay = shop.outbox.relay().poll_interval(NEVER);
    let stats = relay.stats();
    let running = Running::spawn(relay);
    // The first delivery is of what was there before.
    shop.database.run("UPDATE books SET title = 'x' WHERE id = 1").await;
    eventually("the first delivery", async || stats.changes() == 3).await;
    for id in 2..=4 {
        shop.database.run(&format!("UPDATE books SET title = 'x' WHERE id = {id}")).await;
        eventually("a delivery", async || stats.changes() == 3 * id).await;
        assert_eq!(rows(&shop).await, 0);
    }
    assert!(stats.lag() > Duration::ZERO && stats.lag() < Duration::from_secs(5), "{:?}", stats.lag());
    assert_eq!((stats.batches(), stats.failures()), (4, 0));
    running.stop().await;
}

#[tokio::test]
async fn where_commits_cannot_notify_the_relay_polls() {
    let Some(database) = Database::create_with_two_phase_commit().await else { return };
    let Some(shop) = Shop::with(database).await else { return };
    let running = Running::spawn(shop.outbox.relay().poll_interval(Duration::from_millis(20)));
    for id in 1..=3 {
        let told = shop.told.recorded().len();
        shop.database.run(&format!("DELETE FROM books WHERE id = {id}")).await;
        eventually("a delivery", async || shop.told.recorded().len() == told + 1).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_change_is_removed_only_after_its_invalidation_was_acknowledged() {
    let Some(shop) = Shop::open().await else { return };
    let gate = Gate::new(0);
    shop.database.run("UPDATE books SET title = 'x' WHERE id = 1").await;
    let running = Running::spawn(gated(&shop, &gate).relay());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rows(&shop).await, 3, "not acknowledged yet");
    running.kill().await;
    assert_eq!(rows(&shop).await, 3, "the process died before the acknowledgement");
    gate.permits.add_permits(1);
    let running = Running::spawn(gated(&shop, &gate).relay());
    eventually("the delivery", async || rows(&shop).await == 0).await;
    assert_eq!(names(&gate.told.recorded()), ["book", "book{author_id=1}", "book{id=1}"]);
    running.stop().await;
}

#[tokio::test]
async fn repeated_groups_of_a_batch_are_invalidated_once() {
    let Some(shop) = Shop::open().await else { return };
    for _ in 0..20 {
        shop.database.run("UPDATE books SET title = title || 'x' WHERE id = 1").await;
    }
    assert_eq!(rows(&shop).await, 60);
    let running = Running::spawn(shop.outbox.relay());
    eventually("the delivery", async || rows(&shop).await == 0).await;
    let told = shop.told.recorded();
    assert_eq!(told.iter().map(|groups| groups.len()).collect::<Vec<_>>(), [3]);
    running.stop().await;
}

#[tokio::test]
async fn several_relays_share_the_work() {
    let Some(shop) = Shop::open().await else { return };
    shop.database.run("INSERT INTO books SELECT n, 1 FROM generate_series(1000, 2999) AS n").await;
    let relays: Vec<_> = (0..3).map(|_| Running::spawn(shop.outbox.relay().batch_rows_max(50))).collect();
    for n in 0..20 {
        shop.database
            .run(&format!(
                "UPDATE books SET title = 'y' WHERE id BETWEEN {} AND {}",
                1000 + n * 100,
                1049 + n * 100
            ))
            .await;
    }
    eventually("everything is delivered", async || rows(&shop).await == 0).await;
    for relay in relays {
        relay.stop().await;
    }
    let told = shop.told.recorded();
    let of_rows = told
        .iter()
        .flat_map(|groups| groups.iter())
        .filter(|group| group.to_string().starts_with("book{id="));
    assert_eq!(of_rows.count(), 3000, "each change once");
}

#[tokio::test]
async fn a_lost_connection_leads_to_another_and_a_delivery() {
    let Some(shop) = Shop::open().await else { return };
    let relay = shop.outbox.relay().poll_interval(NEVER);
    let stats = relay.stats();
    let running = Running::spawn(relay);
    shop.database.run("DELETE FROM books WHERE id = 1").await;
    eventually("the first delivery", async || rows(&shop).await == 0).await;
    for id in 2..=4 {
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
        shop.database.run(&format!("{terminate}; DELETE FROM books WHERE id = {id}")).await;
        eventually("a delivery", async || rows(&shop).await == 0).await;
    }
    assert!(stats.failures() >= 3);
    running.stop().await;
}

#[tokio::test]
async fn while_the_cache_fails_changes_stay_and_are_tried_again() {
    let Some(shop) = Shop::open().await else { return };
    let gate = Gate::new(1_000_000);
    gate.is_broken.store(true, Ordering::SeqCst);
    let relay = gated(&shop, &gate).relay();
    let stats = relay.stats();
    let running = Running::spawn(relay);
    shop.database.run("DELETE FROM books WHERE id = 1").await;
    eventually("two attempts", async || stats.failures() >= 2).await;
    assert_eq!(rows(&shop).await, 3);
    gate.is_broken.store(false, Ordering::SeqCst);
    eventually("the delivery", async || rows(&shop).await == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_relay_ends_after_the_batch_in_flight() {
    let Some(shop) = Shop::open().await else { return };
    let gate = Gate::new(0);
    let running = Running::spawn(gated(&shop, &gate).relay());
    shop.database.run("DELETE FROM books WHERE id = 1").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let stopping = tokio::spawn(running.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!stopping.is_finished());
    gate.permits.add_permits(1);
    timeout(Duration::from_secs(5), stopping).await.unwrap().unwrap();
    assert_eq!(rows(&shop).await, 0);
}

#[tokio::test]
async fn a_relay_says_at_its_start_if_nothing_is_installed_or_another_delivery_is() {
    let Some(database) = Database::create().await else { return };
    let told = RecordingInvalidator::default();
    let outbox = PgOutbox::new(database.pool.clone(), told.clone());
    let error = outbox.relay().run(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    database.run("CREATE TABLE t (id int)").await;
    outbox.install(&Watches::new().with(watch("t").group("t", ["id"]))).await.unwrap();
    let fan_out = PgOutbox::new(database.pool.clone(), told).fan_out(|| {});
    let error = fan_out.relay().run(std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("the installed delivery is queue, the declared one fan-out"), "{error}");
}

#[tokio::test]
async fn a_flush_waits_for_the_changes_of_a_transaction() {
    let Some(shop) = Shop::open().await else { return };
    let mut transaction = shop.database.pool.begin().await.unwrap();
    sqlx::query("DELETE FROM books WHERE id = 1").execute(&mut *transaction).await.unwrap();
    let xid: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint")
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    let error = shop.outbox.flush(xid).await.unwrap_err();
    assert!(error.to_string().contains("flush after its commit"), "{error}");
    transaction.commit().await.unwrap();
    shop.database.run("DELETE FROM books WHERE id = 3").await;
    shop.outbox.flush(xid).await.unwrap();
    assert_eq!(names(&shop.told.recorded()), ["book", "book{author_id=1}", "book{id=1}"]);
    assert_eq!(rows(&shop).await, 3, "those of the other transaction");
    assert!(shop.outbox.backlog().await.unwrap().oldest > Duration::ZERO);
}

#[tokio::test]
async fn a_flush_waits_for_what_another_relay_has_taken() {
    let Some(shop) = Shop::open().await else { return };
    let gate = Gate::new(0);
    let running = Running::spawn(gated(&shop, &gate).relay());
    shop.database.run("DELETE FROM books WHERE id = 1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let outbox = shop.outbox.clone();
    let flush = tokio::spawn(async move { outbox.flush_all().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!flush.is_finished());
    gate.permits.add_permits(1);
    flush.await.unwrap().unwrap();
    assert_eq!(rows(&shop).await, 0);
    running.stop().await;
}
