//! Transactions that wait for their own invalidations.

use std::fmt;
use std::ops::{Deref, DerefMut};

use groupcache_core::{Backend, Cache, Groups, LoadContext};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Row, SqlSafeStr, Transaction};

use crate::change::{Change, invalidate};
use crate::delivery::Delivery;
use crate::error::CommitError;
use crate::postgres::outbox::PgOutbox;
use crate::postgres::rows::COLUMNS;

/// How long the relays leave changes to the process that made them. If it dies, its changes wait that long.
const HOLD: &str = "SET LOCAL groupcache.hold = '1s'";

/// A transaction whose [`commit`](Self::commit) returns after the values it concerns are stale.
///
/// Made by [`PgOutbox::begin`]. Dereference it to use it as an executor; savepoints are those of `sqlx`. It is
/// rolled back if it is dropped, and then invalidates nothing.
///
/// A load that uses this transaction sees what is not committed. So the cache never stores such a load. Move the
/// transaction itself into the load: a `&mut PgConnection` or a savepoint that was taken from it before the load
/// began cannot be recognised, and what is read through that is stored. Use [`get_or_load`](Self::get_or_load), or
/// [`LoadContext::do_not_store`] inside the load.
///
/// ```no_run
/// # async fn example(outbox: groupcache_sqlx::PgOutbox) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = outbox.begin().await?;
/// sqlx::query("UPDATE books SET author_id = 7 WHERE author_id = 8").execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped is rolled back"]
pub struct PgCacheTransaction {
    outbox: PgOutbox,
    transaction: Transaction<'static, Postgres>,
}

impl PgOutbox {
    /// Begins a transaction that waits for its own invalidations.
    ///
    /// # Errors
    ///
    /// What the pool or the database returns.
    pub async fn begin(&self) -> sqlx::Result<PgCacheTransaction> {
        self.begin_with("BEGIN").await
    }

    /// Begins a transaction with this statement, such as `BEGIN ISOLATION LEVEL SERIALIZABLE`.
    ///
    /// # Errors
    ///
    /// What the pool or the database returns.
    pub async fn begin_with(&self, statement: impl SqlSafeStr) -> sqlx::Result<PgCacheTransaction> {
        let statement = statement.into_sql_str();
        let begin = format!("{}; {HOLD}", statement.as_str().trim_end().trim_end_matches(';'));
        let transaction = self.pool.begin_with(AssertSqlSafe(begin)).await?;
        Ok(PgCacheTransaction { outbox: self.clone(), transaction })
    }
}

impl PgCacheTransaction {
    /// Commits, then invalidates what the triggers wrote in this transaction, and returns once that is
    /// acknowledged. A read that starts afterwards sees the change.
    ///
    /// Deferred constraints are checked first, so that what their triggers change counts too. Two round trips to
    /// the database more than a plain commit, and one to the store of the cache.
    ///
    /// # Cancellation
    ///
    /// Once polled, commit and invalidation complete even if the future is dropped. If the process dies
    /// between the two, a relay invalidates.
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
    /// Before the first write of the transaction, this is a read of the cache. After it, the value is
    /// loaded: what is cached may be older than what the transaction wrote. What `loader` returns is never
    /// stored, because it may not be committed.
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
        loader: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E>
    where
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned + Send + Sync,
        E: From<sqlx::Error>,
        B: Backend,
    {
        let has_written: bool = sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
            .fetch_one(&mut *self.transaction)
            .await?;
        if !has_written && let Some(value) = cache.get(key, groups).await {
            return Ok(value);
        }
        loader(self).await
    }

    async fn commit_and_invalidate(mut self) -> Result<(), CommitError> {
        let (changes, transaction) = self.changes().await.map_err(CommitError::NotCommitted)?;
        let outbox = self.outbox;
        let is_fan_out = outbox.delivery() == Delivery::FanOut;
        let own =
            transaction.filter(|_| is_fan_out).map(|number| outbox.own_changes.announce(number..=number));
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
            drop(tokio::spawn(async move { outbox.remove(transaction).await }));
        }
        Ok(())
    }

    /// What the triggers wrote in this transaction so far, and its number.
    async fn changes(&mut self) -> sqlx::Result<(Vec<Change>, Option<i64>)> {
        // Triggers that wait for the commit run now.
        sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *self.transaction).await?;
        let query = format!(
            "SELECT current_setting('groupcache.hold', true) AS hold,
                 pg_current_xact_id_if_assigned()::text::bigint AS number, {COLUMNS}
             FROM (SELECT) AS one LEFT JOIN {} ON xid = pg_current_xact_id_if_assigned()",
            self.outbox.table()
        );
        let (mut changes, mut number) = (Vec::new(), None);
        for row in sqlx::query(AssertSqlSafe(query)).fetch_all(&mut *self.transaction).await? {
            // The setting ends with the transaction.
            if row.try_get::<Option<String>, _>("hold")?.is_none_or(|hold| hold.is_empty()) {
                let message = "a statement has ended the transaction; use `commit` and `rollback`";
                return Err(sqlx::Error::Protocol(message.to_owned()));
            }
            if row.try_get::<Option<String>, _>("name")?.is_some() {
                number = row.try_get("number")?;
                changes.push(Change::from_row(&row)?);
            }
        }
        Ok((changes, number))
    }
}

impl PgOutbox {
    /// Removes the delivered changes of a transaction, unless a relay has them.
    async fn remove(&self, transaction: Option<i64>) -> sqlx::Result<()> {
        let query = format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM {table} WHERE xid = $1::text::xid8 FOR UPDATE SKIP LOCKED))",
            table = self.table()
        );
        sqlx::query(AssertSqlSafe(query)).bind(transaction).execute(&self.pool).await.map(drop)
    }
}

impl Deref for PgCacheTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for PgCacheTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        // What a load reads here may never be committed.
        if let Some(load) = LoadContext::current() {
            load.do_not_store();
        }
        &mut self.transaction
    }
}

impl fmt::Debug for PgCacheTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgCacheTransaction").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}
