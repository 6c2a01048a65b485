//! Delivering what is in the outbox.
//!
//! An SQLite file has one writer at a time, so changes are numbered in the order in which they are committed.

use std::collections::VecDeque;
use std::time::Duration;

use groupcache_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::time::{Instant, sleep, timeout};

use crate::change::{Change, invalidate};
use crate::delivery::{Backlog, Delivered, Delivery, seconds};
use crate::error::{NAME, error_from};
use crate::sqlite::outbox::SqliteOutbox;
use crate::sqlite::rows::{COLUMNS, Numbered};

/// How many changes a flush delivers at once.
const BATCH: u32 = 1000;

/// How long a flush may take.
const FLUSH_TIME_LIMIT: Duration = Duration::from_secs(10);

/// How far this process has read, where every process reads everything.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    last: Option<i64>,
    /// When the relay had read up to which number.
    history: VecDeque<(Instant, i64)>,
}

impl SqliteOutbox {
    /// Waits until all changes that are committed now are delivered: the caller's own writes are visible afterwards.
    ///
    /// For transactions that [`begin`](Self::begin) did not begin, such as those of an ORM: call it after the
    /// commit. Needs a running [`relay`](Self::relay) only where changes are delivered to
    /// [every process](Self::fan_out); there it waits for the cache of this process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] after ten seconds, and what the database or the invalidator returns. The changes stay in
    /// the outbox then.
    pub async fn flush_all(&self) -> Result<()> {
        let flush = async {
            match self.delivery() {
                Delivery::Queue => self.deliver_all().await,
                Delivery::FanOut => {
                    self.progress.wait_for_next().await;
                    Ok(())
                }
            }
        };
        timeout(FLUSH_TIME_LIMIT, flush).await.unwrap_or_else(|_| {
            let message = "changes were not delivered in time; is a relay running?";
            Err(Error::new(ErrorKind::Timeout, NAME).with_message(message))
        })
    }

    /// Returns how much waits in the outbox, for metrics. Counts the rows.
    ///
    /// # Errors
    ///
    /// What the database returns.
    pub async fn backlog(&self) -> Result<Backlog> {
        let query = "SELECT count(*), coalesce((julianday('now') - min(written_at)) * 86400.0, 0.0)
                     FROM groupcache_outbox";
        let (rows, oldest): (i64, f64) =
            sqlx::query_as(query).fetch_one(&self.pool).await.map_err(error_from)?;
        Ok(Backlog { rows: rows.unsigned_abs(), oldest: seconds(oldest) })
    }

    async fn deliver_all(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        let last = self.last_number(&mut connection).await?;
        loop {
            let left = "SELECT EXISTS (SELECT 1 FROM groupcache_outbox WHERE id <= ?)";
            let left: bool =
                sqlx::query_scalar(left).bind(last).fetch_one(&mut *connection).await.map_err(error_from)?;
            if !left {
                return Ok(());
            }
            let condition = format!("id <= {last}");
            if self.deliver(&mut connection, &condition, BATCH).await?.changes == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Delivers up to `limit` changes that fulfil `condition`, and removes them after the acknowledgement.
    ///
    /// Two relays may deliver one change, which does no harm.
    pub(crate) async fn deliver(
        &self,
        connection: &mut SqliteConnection,
        condition: &str,
        limit: u32,
    ) -> Result<Delivered> {
        let rows = read(connection, condition, limit).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("delete_before_bump") {
            remove(connection, &ids).await?;
        }
        let delivered = self.invalidate(rows).await?;
        remove(connection, &ids).await?;
        Ok(delivered)
    }

    /// Invalidates what was committed since the last read of `cursor`, which moves on after the acknowledgement.
    pub(crate) async fn read_on(
        &self,
        connection: &mut SqliteConnection,
        cursor: &mut Cursor,
    ) -> Result<Delivered> {
        let number = self.progress.begin();
        let mut transaction = connection.begin().await.map_err(error_from)?;
        let last = self.last_number(&mut transaction).await?;
        let pruned_to: i64 = sqlx::query_scalar("SELECT pruned_to FROM groupcache_installation")
            .fetch_one(&mut *transaction)
            .await
            .map_err(error_from)?;
        // A file with lower numbers was restored from an older copy.
        let known = cursor.last.filter(|known| *known >= pruned_to && *known <= last);
        let rows = match known {
            Some(known) => read(&mut transaction, &format!("id > {known}"), u32::MAX).await?,
            None => Vec::new(),
        };
        transaction.rollback().await.map_err(error_from)?;
        let mut others = Vec::new();
        for row in rows {
            if !self.own_changes.are_delivered(row.id).await {
                others.push(row);
            }
        }
        let delivered = self.invalidate(others).await?;
        if known.is_none() {
            self.own_changes.forget();
            if cursor.last.is_some() {
                tracing::warn!("changes were removed before this process read them: all entries are dropped");
                cursor.history.clear();
            }
            if let Some(invalidate_all) = &self.invalidate_all {
                invalidate_all();
            }
        }
        if cursor.history.back().is_none_or(|(_, read)| *read < last) {
            cursor.history.push_back((Instant::now(), last));
        }
        cursor.last = Some(last);
        self.progress.finish(number);
        Ok(delivered)
    }

    /// Removes the changes that this process had read `retention` ago.
    pub(crate) async fn prune(
        &self,
        connection: &mut SqliteConnection,
        cursor: &mut Cursor,
        retention: Duration,
    ) -> Result<()> {
        let mut old = None;
        while cursor.history.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            old = cursor.history.pop_front();
        }
        let Some((_, up_to)) = old else { return Ok(()) };
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(error_from)?;
        for query in [
            "DELETE FROM groupcache_outbox WHERE id <= ?1",
            "UPDATE groupcache_installation SET pruned_to = ?1 WHERE pruned_to < ?1",
        ] {
            sqlx::query(query).bind(up_to).execute(&mut *transaction).await.map_err(error_from)?;
        }
        transaction.commit().await.map_err(error_from)
    }

    /// The number of the last change that was ever committed.
    pub(crate) async fn last_number(&self, connection: &mut SqliteConnection) -> Result<i64> {
        let query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'groupcache_outbox'";
        sqlx::query_scalar(query).fetch_one(connection).await.map_err(error_from)
    }

    async fn invalidate(&self, rows: Vec<Numbered>) -> Result<Delivered> {
        if rows.is_empty() {
            return Ok(Delivered::default());
        }
        let began = Instant::now();
        let oldest = rows.iter().map(|row| row.age).fold(0.0, f64::max);
        let changes: Vec<Change> = rows.into_iter().map(|row| row.change).collect();
        invalidate(&self.invalidator, &changes).await?;
        Ok(Delivered { changes: changes.len(), lag: seconds(oldest) + began.elapsed() })
    }
}

/// Removes delivered changes.
pub(crate) async fn remove(connection: &mut SqliteConnection, ids: &[i64]) -> Result<()> {
    for ids in ids.chunks(500) {
        let list: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let query = format!("DELETE FROM groupcache_outbox WHERE id IN ({})", list.join(", "));
        sqlx::query(AssertSqlSafe(query)).execute(&mut *connection).await.map_err(error_from)?;
    }
    Ok(())
}

/// Reads up to `limit` changes, the oldest first.
pub(crate) async fn read(
    connection: &mut SqliteConnection,
    condition: &str,
    limit: u32,
) -> Result<Vec<Numbered>> {
    let query =
        format!("SELECT {COLUMNS} FROM groupcache_outbox WHERE {condition} ORDER BY id LIMIT {limit}");
    sqlx::query_as(AssertSqlSafe(query)).fetch_all(connection).await.map_err(error_from)
}
