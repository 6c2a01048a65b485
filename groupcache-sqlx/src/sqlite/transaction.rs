//! Transactions that wait for their own invalidations.

use std::fmt;
use std::ops::{Deref, DerefMut};

use groupcache_core::{Backend, Cache, Groups, LoadContext};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::change::{Change, invalidate};
use crate::delivery::Delivery;
use crate::error::{CommitError, error_from};
use crate::sqlite::outbox::SqliteOutbox;
use crate::sqlite::queue::{read, remove};

/// A transaction whose [`commit`](Self::commit) returns after the values it concerns are stale.
///
/// Made by [`SqliteOutbox::begin`]. Dereference it to use it as an executor; savepoints are those of `sqlx`. It is
/// rolled back if it is dropped, and then invalidates nothing.
///
/// A load that uses this transaction sees what is not committed. So the cache never stores such a load. Move the
/// transaction itself into the load: a `&mut SqliteConnection` or a savepoint that was taken from it before the load
/// began cannot be recognised, and what is read through that is stored. Use [`get_or_load`](Self::get_or_load), or
/// [`LoadContext::do_not_store`] inside the load.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct SqliteCacheTransaction {
    outbox: SqliteOutbox,
    transaction: Transaction<'static, Sqlite>,
    /// The last change before this transaction.
    last: i64,
    /// How many rows the connection had changed before this transaction.
    changed: i64,
}

impl SqliteOutbox {
    /// Begins a transaction that waits for its own invalidations. It holds the write lock of the file from now on
    /// (`BEGIN IMMEDIATE`).
    ///
    /// # Errors
    ///
    /// What the pool or the database returns.
    pub async fn begin(&self) -> sqlx::Result<SqliteCacheTransaction> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let (last, changed) = sqlx::query_as(
            "SELECT coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'groupcache_outbox'), 0),
                 total_changes()",
        )
        .fetch_one(&mut *transaction)
        .await?;
        Ok(SqliteCacheTransaction { outbox: self.clone(), transaction, last, changed })
    }
}

impl SqliteCacheTransaction {
    /// Commits, then invalidates what the triggers wrote in this transaction, and returns once that is
    /// acknowledged. A read that starts afterwards sees the change.
    ///
    /// # Cancellation
    ///
    /// Once polled, commit and invalidation complete even if the future is dropped. If the process dies between the
    /// two, a relay invalidates.
    ///
    /// # Errors
    ///
    /// [`CommitError::NotCommitted`], or [`CommitError::NotInvalidated`]: the transaction is committed, old
    /// values may be served until the relay has delivered the change.
    pub async fn commit(self) -> Result<(), CommitError> {
        match tokio::spawn(self.commit_and_invalidate()).await {
            Ok(outcome) => outcome,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The runtime is shutting down: the outcome is unknown.
            Err(_) => Err(CommitError::NotCommitted(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Rolls back. Nothing is invalidated.
    ///
    /// # Errors
    ///
    /// What the database returns.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.transaction.rollback().await
    }

    /// Reads through `cache` as the transaction sees its data.
    ///
    /// Before the first write of the transaction, this is a read of the cache. After it, the value is loaded: what is
    /// cached may be older than what the transaction wrote. What `loader` returns is never stored, because it may
    /// not be committed.
    ///
    /// # Errors
    ///
    /// Returns the error of `loader`, or of the database.
    #[expect(
        clippy::future_not_send,
        reason = "it is `Send` if the future of `loader` is, which no bound can ask for"
    )]
    pub async fn get_or_load<K, T, E, B>(
        &mut self,
        cache: &Cache<B>,
        key: &K,
        groups: impl Into<Groups>,
        loader: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, E>,
    ) -> Result<T, E>
    where
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + Sync,
        E: From<sqlx::Error>,
        B: Backend,
    {
        let changed: i64 =
            sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut *self.transaction).await?;
        if changed == self.changed
            && let Some(value) = cache.get(key, groups).await
        {
            return Ok(value);
        }
        loader(self).await
    }

    async fn commit_and_invalidate(mut self) -> Result<(), CommitError> {
        let not_committed =
            |error: groupcache_core::Error| CommitError::NotCommitted(sqlx::Error::Decode(error.into()));
        let condition = format!("id > {}", self.last);
        let rows = read(&mut self.transaction, &condition, u32::MAX).await.map_err(not_committed)?;
        if self.outbox.delivery() == Delivery::Queue && !rows.is_empty() {
            // The relays leave them to this process, unless it dies.
            sqlx::query(
                "UPDATE groupcache_outbox SET held_until = julianday('now', '+1 second') WHERE id > ?",
            )
            .bind(self.last)
            .execute(&mut *self.transaction)
            .await
            .map_err(CommitError::NotCommitted)?;
        }
        let (ids, changes): (Vec<i64>, Vec<Change>) =
            rows.into_iter().map(|row| (row.id, row.change)).unzip();
        let outbox = self.outbox;
        let numbers = ids.first().zip(ids.last()).filter(|_| outbox.delivery() == Delivery::FanOut);
        let own = numbers.map(|(first, last)| outbox.own_changes.announce(*first..=*last));
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("bump_before_commit_in_sqlx") {
            let invalidated = invalidate(&outbox.invalidator, &changes).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            self.transaction.commit().await.map_err(CommitError::NotCommitted)?;
            return invalidated.map_err(CommitError::NotInvalidated);
        }
        self.transaction.commit().await.map_err(CommitError::NotCommitted)?;
        if changes.is_empty() {
            return Ok(());
        }
        invalidate(&outbox.invalidator, &changes).await.map_err(CommitError::NotInvalidated)?;
        if let Some(own) = own {
            own.delivered();
        } else {
            // Nobody waits for this. If it fails, a relay delivers the changes again.
            drop(tokio::spawn(async move {
                let mut connection = outbox.pool.acquire().await.map_err(error_from)?;
                remove(&mut connection, &ids).await
            }));
        }
        Ok(())
    }
}

impl Deref for SqliteCacheTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.transaction
    }
}

impl DerefMut for SqliteCacheTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        // What a load reads here may never be committed.
        if let Some(load) = LoadContext::current() {
            load.do_not_store();
        }
        &mut self.transaction
    }
}

impl fmt::Debug for SqliteCacheTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteCacheTransaction").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}
