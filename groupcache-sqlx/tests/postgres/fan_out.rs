//! Caches in the memory of each process: every process sees every change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use groupcache_core::{Cache, Error, ErrorKind, Group, Groups, Invalidator, RecordingInvalidator, Result};
use groupcache_memory::MemoryBackend;
use groupcache_sqlx::{CommitError, PgOutbox};
use tokio::sync::Semaphore;

use crate::relay::Running;
use crate::server::Database;
use crate::support::{TABLES, eventually, names, watches};

/// One process: what it was told, and how often it dropped everything.
struct Process {
    outbox: PgOutbox,
    told: RecordingInvalidator,
    resets: Arc<AtomicU64>,
}

impl Process {
    fn new(database: &Database) -> Self {
        let (told, resets) = (RecordingInvalidator::default(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&resets);
        let outbox = PgOutbox::new(database.pool.clone(), told.clone()).fan_out(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        Self { outbox, told, resets }
    }

    fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }

    async fn started(&self) -> Running {
        let before = self.resets();
        let running = Running::spawn(self.outbox.relay().poll_interval(Duration::from_millis(10)));
        eventually("the relay reads", async || self.resets() > before).await;
        running
    }

    fn names(&self) -> Vec<String> {
        names(&self.told.recorded())
    }
}

async fn open() -> Option<Database> {
    let database = Database::create().await?;
    database.run(TABLES).await;
    Process::new(&database).outbox.install(&watches()).await.unwrap();
    Some(database)
}

#[tokio::test]
async fn every_process_sees_every_change_once() {
    let Some(database) = open().await else { return };
    let (one, two) = (Process::new(&database), Process::new(&database));
    let running = [one.started().await, two.started().await];
    for id in 1..=8 {
        database.run(&format!("DELETE FROM books WHERE id = {id}")).await;
    }
    one.outbox.flush_all().await.unwrap();
    two.outbox.flush_all().await.unwrap();
    for process in [&one, &two] {
        let told = process.told.recorded();
        let of_rows =
            told.iter().flat_map(|groups| groups.iter()).filter(|group| group.to_string().contains("{id="));
        assert_eq!(of_rows.count(), 8);
        assert_eq!(process.resets(), 1, "at its start");
    }
    for running in running {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_transaction_that_commits_after_a_later_one_is_seen() {
    let Some(database) = open().await else { return };
    let process = Process::new(&database);
    let running = process.started().await;
    for round in 0..10 {
        let mut early = database.pool.begin().await.unwrap();
        let update = format!("UPDATE favorites SET user_id = {} WHERE book_id = 2", 100 + round);
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut *early).await.unwrap();
        // Takes later numbers, and commits first.
        database.run(&format!("UPDATE books SET title = '{round}' WHERE id = 1")).await;
        process.outbox.flush_all().await.unwrap();
        assert!(!process.names().contains(&format!("user{{id={}}}", 100 + round)));
        early.commit().await.unwrap();
        process.outbox.flush_all().await.unwrap();
        assert!(process.names().contains(&format!("user{{id={}}}", 100 + round)), "round {round}");
    }
    let told = process.told.recorded();
    let of_the_book = told.iter().filter(|groups| groups.contains(&Group::new("book").with("id", 1)));
    assert_eq!(of_the_book.count(), 10, "nothing is read twice while an old transaction is open");
    running.stop().await;
}

#[tokio::test]
async fn a_process_that_lost_its_connection_reads_on_where_it_was() {
    let Some(database) = open().await else { return };
    let process = Process::new(&database);
    let running = process.started().await;
    for id in 1..=3 {
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.run(&format!("{terminate}; DELETE FROM books WHERE id = {id}")).await;
        eventually("the delivery", async || process.names().contains(&format!("book{{id={id}}}"))).await;
    }
    assert_eq!(process.resets(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_process_that_was_away_too_long_drops_everything_and_old_changes_are_removed() {
    let Some(database) = open().await else { return };
    let (away, other) = (Process::new(&database), Process::new(&database));
    // A relay whose reads all fail: the database lets it do nothing.
    database.run("DROP ROLE IF EXISTS away; CREATE ROLE away LOGIN SUPERUSER").await;
    let pool =
        sqlx::postgres::PgPoolOptions::new().connect_lazy_with(database.options.clone().username("away"));
    let resets = Arc::clone(&away.resets);
    let outbox = PgOutbox::new(pool, away.told.clone()).fan_out(move || {
        resets.fetch_add(1, Ordering::SeqCst);
    });
    let relay = outbox.relay().poll_interval(Duration::from_millis(10));
    let stats = relay.stats();
    let running = Running::spawn(relay);
    eventually("it reads", async || away.resets() == 1).await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'away'";
    database.run(&format!("ALTER ROLE away NOLOGIN; {terminate}")).await;
    eventually("it is away", async || stats.failures() > 1).await;

    let relay =
        other.outbox.relay().poll_interval(Duration::from_millis(10)).retention(Duration::from_millis(50));
    let keeper = Running::spawn(relay);
    for n in 0..5 {
        database.run(&format!("UPDATE books SET title = '{n}' WHERE id = 1")).await;
        other.outbox.flush_all().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("old changes are removed", async || other.outbox.backlog().await.unwrap().rows < 9).await;
    assert_eq!(other.resets(), 1, "it was there all the time");
    assert!(other.names().contains(&"book{id=1}".to_owned()));
    database.run("ALTER ROLE away LOGIN").await;
    eventually("it drops everything", async || away.resets() == 2).await;
    running.stop().await;
    keeper.stop().await;
}

#[tokio::test]
async fn a_transaction_is_visible_to_its_own_process_at_once_and_to_others_later() {
    let Some(database) = open().await else { return };
    let backend = MemoryBackend::with_max_bytes(1 << 20);
    let cache = Cache::builder(backend.clone()).build();
    let own = PgOutbox::new(database.pool.clone(), cache.clone()).fan_out(move || backend.invalidate_all());
    let other = Process::new(&database);
    let running = [Running::spawn(own.relay()), other.started().await];
    let read = async || {
        let load = async || {
            sqlx::query_scalar("SELECT title FROM books WHERE id = 1").fetch_one(&database.pool).await
        };
        let title: String = cache.get_or_load("title", Group::new("book").with("id", 1), load).await.unwrap();
        title
    };
    for n in 0..20 {
        assert_ne!(read().await, n.to_string());
        let mut transaction = own.begin().await.unwrap();
        let update = sqlx::query("UPDATE books SET title = $1 WHERE id = 1").bind(n.to_string());
        update.execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(read().await, n.to_string());
    }
    eventually("the other process knows", async || other.names().contains(&"book{id=1}".to_owned())).await;
    for running in running {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_flush_without_a_relay_fails_in_time() {
    let Some(database) = open().await else { return };
    let process = Process::new(&database);
    let error = process.outbox.flush_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("is a relay running?"), "{error}");
}

#[tokio::test]
async fn a_change_of_an_own_transaction_is_invalidated_once_here_and_once_elsewhere() {
    let Some(database) = open().await else { return };
    let (own, other) = (Process::new(&database), Process::new(&database));
    let running = [own.started().await, other.started().await];
    for _ in 0..20 {
        let mut transaction = own.outbox.begin().await.unwrap();
        sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    own.outbox.flush_all().await.unwrap();
    other.outbox.flush_all().await.unwrap();
    assert_eq!(own.told.recorded().len(), 20);
    let of_the_book = Group::new("book").with("id", 1);
    assert!(other.told.recorded().iter().any(|groups| groups.contains(&of_the_book)));
    for running in running {
        running.stop().await;
    }
}

/// Fails the first invalidation, once it may.
#[derive(Clone)]
struct FailingFirst {
    told: RecordingInvalidator,
    is_first: Arc<AtomicBool>,
    may_fail: Arc<Semaphore>,
}

impl Invalidator for FailingFirst {
    async fn invalidate(&self, groups: &Groups) -> Result<()> {
        if self.is_first.swap(false, Ordering::SeqCst) {
            self.may_fail.acquire().await.unwrap().forget();
            return Err(Error::new(ErrorKind::Unavailable, "failing"));
        }
        self.told.invalidate(groups).await
    }
}

#[tokio::test]
async fn a_change_whose_own_transaction_could_not_invalidate_it_is_delivered_by_the_relay() {
    let Some(database) = open().await else { return };
    let failing = FailingFirst {
        told: RecordingInvalidator::default(),
        is_first: Arc::new(AtomicBool::new(true)),
        may_fail: Arc::new(Semaphore::new(0)),
    };
    let outbox = PgOutbox::new(database.pool.clone(), failing.clone()).fan_out(|| {});
    let running = Running::spawn(outbox.relay().poll_interval(Duration::from_millis(10)));
    outbox.flush_all().await.unwrap();
    let mut transaction = outbox.begin().await.unwrap();
    sqlx::query("UPDATE books SET title = 'x' WHERE id = 1").execute(&mut *transaction).await.unwrap();
    let commit = tokio::spawn(transaction.commit());
    // The relay reads the change while its transaction is about to invalidate it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    failing.may_fail.add_permits(1);
    assert!(matches!(commit.await.unwrap(), Err(CommitError::NotInvalidated(_))));
    let told = ["book", "book{author_id=1}", "book{id=1}"];
    eventually("the delivery", async || names(&failing.told.recorded()) == told).await;
    running.stop().await;
}

#[tokio::test]
async fn after_a_crash_of_the_server_no_transaction_with_a_number_used_before_is_missed() {
    let Some(database) = Database::create_alone().await else { return };
    database.run(TABLES).await;
    let process = Process::new(&database);
    process.outbox.install(&watches()).await.unwrap();
    for setting in ["ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()", "CHECKPOINT"] {
        database.run(setting).await;
    }
    let running = process.started().await;
    // Numbers that the crash takes back: nothing of these transactions reaches the disk.
    database
        .run("DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        .await;
    process.outbox.flush_all().await.unwrap();
    let crash = "COPY (SELECT pg_backend_pid()) TO PROGRAM 'xargs kill -9'";
    database.try_run(crash).await.unwrap_err();
    let update = "UPDATE books SET title = 'x' WHERE id = 1";
    eventually("the server is back", async || database.try_run(update).await.is_ok()).await;
    let is_fresh = async || process.resets() > 1 || process.names().contains(&"book{id=1}".to_owned());
    eventually("the change is seen, or everything is dropped", is_fresh).await;
    running.stop().await;
}
