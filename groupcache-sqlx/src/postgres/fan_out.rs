//! The outbox as a log that every process reads.
//!
//! Transactions commit in another order than they write, so the largest number read so far says nothing about
//! what is still to come. A process remembers the snapshot of its last read instead, and reads what that
//! snapshot did not see.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::TryStreamExt;
use groupcache_core::{Invalidator, Result};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row};
use tokio::time::Instant;

use crate::change::{BATCH, Change, groups_of};
use crate::delivery::{Delivered, seconds};
use crate::error::error_from;
use crate::postgres::outbox::PgOutbox;
use crate::postgres::rows::COLUMNS;
use crate::postgres::sql::ident;

/// How far this process has read, and what it knows for removing old changes.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    last: Option<LastRead>,
    /// For each read of the retention time: when it was, and the first transaction that was open then.
    history: VecDeque<(Instant, String)>,
    #[cfg(groupcache_mutants)]
    last_id: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LastRead {
    snapshot: String,
    /// Identifies the history of transactions: another server, or one that was promoted, numbers anew.
    server: String,
}

impl PgOutbox {
    /// Invalidates what changed since the last read of `cursor`.
    ///
    /// The cursor moves on only after the invalidation was acknowledged.
    pub(crate) async fn read_on(
        &self,
        connection: &mut PgConnection,
        cursor: &mut Cursor,
    ) -> Result<Delivered> {
        let number = self.progress.begin();
        let server = server(connection).await.map_err(error_from)?;
        let last = cursor.last.clone().filter(|last| last.server == server);
        let began = Instant::now();
        let mut seen = Seen::default();
        let mut delivered = Delivered::default();
        {
            let query = AssertSqlSafe(self.query_since(last.is_some(), cursor));
            let since = last.as_ref().map_or("1:1:", |last| &last.snapshot);
            let mut rows = sqlx::query(query).bind(since).fetch(connection);
            let mut batch = Vec::new();
            while let Some(row) = rows.try_next().await.map_err(error_from)? {
                seen.update(&row).map_err(error_from)?;
                // A row without a change says only what the snapshot was.
                if row.try_get::<Option<String>, _>("name").map_err(error_from)?.is_none() {
                    continue;
                }
                if self.own_changes.are_delivered(row.try_get("number").map_err(error_from)?).await {
                    continue;
                }
                batch.push(Change::from_row(&row).map_err(error_from)?);
                delivered.changes += 1;
                delivered.lag = delivered.lag.max(seconds(row.try_get("age").map_err(error_from)?));
                if batch.len() == BATCH {
                    self.invalidator.invalidate(&groups_of(&batch)).await?;
                    batch.clear();
                }
            }
            if !batch.is_empty() {
                self.invalidator.invalidate(&groups_of(&batch)).await?;
            }
        }
        if last.is_none() || seen.missed {
            self.drop_everything(last.is_some());
        }
        if delivered.changes > 0 {
            delivered.lag += began.elapsed();
        }
        cursor.advance(seen, server);
        self.progress.finish(number);
        Ok(delivered)
    }

    fn drop_everything(&self, was_reading: bool) {
        self.own_changes.forget();
        if was_reading {
            tracing::warn!("changes were removed before this process read them: all entries are dropped");
        }
        if let Some(invalidate_all) = &self.invalidate_all {
            invalidate_all();
        }
    }

    /// One statement, hence one snapshot: the changes that the snapshot `$1` did not see, or none but the
    /// snapshot of now.
    fn query_since(&self, is_continued: bool, cursor: &Cursor) -> String {
        // The last condition leaves out rows that were restored from another server: they would be new for ever.
        let condition =
            "xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)
                 AND xid < pg_snapshot_xmax(pg_current_snapshot())";
        #[cfg(groupcache_mutants)]
        let by_id = format!("id > {}", cursor.last_id);
        #[cfg(groupcache_mutants)]
        let condition =
            if groupcache_core::mutants::is_on("sequence_order") { by_id.as_str() } else { condition };
        #[cfg(not(groupcache_mutants))]
        let _: &Cursor = cursor;
        format!(
            "SELECT pg_current_snapshot()::text AS snapshot, pg_snapshot_xmin(pg_current_snapshot())::text AS xmin,
                 pruned_before > pg_snapshot_xmin($1::pg_snapshot) AS missed, id, xid::text::bigint AS number,
                 {COLUMNS},
                 extract(epoch FROM clock_timestamp() - written_at)::float8 AS age
             FROM {schema}.installation LEFT JOIN {schema}.outbox ON {is_continued} AND {condition}
             ORDER BY xid, id",
            schema = ident(&self.schema)
        )
    }

    /// Removes the changes of all transactions that had ended `retention` ago.
    ///
    /// A process that has read since then has seen them. One that has not finds out by `pruned_before`, which
    /// changes in the same transaction.
    pub(crate) async fn prune(
        &self,
        connection: &mut PgConnection,
        cursor: &mut Cursor,
        retention: Duration,
    ) -> Result<()> {
        let mut ended = None;
        while cursor.history.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            ended = cursor.history.pop_front();
        }
        let Some((_, before)) = ended else { return Ok(()) };
        let schema = ident(&self.schema);
        let mut transaction = connection.begin().await.map_err(error_from)?;
        for query in [
            format!("DELETE FROM {schema}.outbox WHERE xid < $1::xid8"),
            format!(
                "UPDATE {schema}.installation SET pruned_before = $1::xid8 WHERE pruned_before < $1::xid8"
            ),
        ] {
            sqlx::query(AssertSqlSafe(query))
                .bind(&before)
                .execute(&mut *transaction)
                .await
                .map_err(error_from)?;
        }
        transaction.commit().await.map_err(error_from)
    }
}

/// What a read learns beside the changes.
#[derive(Debug, Default)]
struct Seen {
    snapshot: String,
    xmin: String,
    /// Changes that this process has not read may have been removed.
    missed: bool,
    #[cfg(groupcache_mutants)]
    last_id: i64,
}

impl Seen {
    fn update(&mut self, row: &PgRow) -> sqlx::Result<()> {
        self.snapshot = row.try_get("snapshot")?;
        self.xmin = row.try_get("xmin")?;
        self.missed = row.try_get("missed")?;
        #[cfg(groupcache_mutants)]
        {
            self.last_id = self.last_id.max(row.try_get::<Option<i64>, _>("id")?.unwrap_or_default());
        }
        Ok(())
    }
}

impl Cursor {
    fn advance(&mut self, seen: Seen, server: String) {
        #[cfg(groupcache_mutants)]
        {
            self.last_id = self.last_id.max(seen.last_id);
        }
        if self.last.as_ref().is_some_and(|last| last.server != server) {
            self.history.clear();
        }
        // One sample for each move of the oldest open transaction is enough.
        if self.history.back().is_none_or(|(_, xmin)| *xmin != seen.xmin) {
            self.history.push_back((Instant::now(), seen.xmin));
        }
        self.last = Some(LastRead { snapshot: seen.snapshot, server });
    }
}

/// The identity of the server, of its timeline, and of its life. An error on a replica, which must not be read from.
///
/// A crash takes back the numbers of transactions that wrote nothing to the disk, and the server uses them again:
/// what the last snapshot says of them is wrong. A server that recovers from a crash starts new statistics.
async fn server(connection: &mut PgConnection) -> sqlx::Result<String> {
    let query = "SELECT system_identifier::text || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
                     || coalesce(extract(epoch FROM stats_reset)::text, '')
                 FROM pg_control_system(), pg_stat_archiver";
    sqlx::query_scalar(query).fetch_one(connection).await
}
