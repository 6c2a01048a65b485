//! The outbox as a queue: a change is taken, its groups are invalidated, then it is removed.

use std::time::Duration;

use groupcache_core::{Invalidator, Result};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row};
use tokio::time::Instant;

use crate::change::{Change, groups_of};
use crate::delivery::{Delivered, seconds};
use crate::error::error_from;
use crate::postgres::outbox::PgOutbox;
use crate::postgres::rows::COLUMNS;

/// Which changes to deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Due<'a> {
    /// All but those that another process is about to deliver itself.
    Now,
    /// Those of one transaction.
    Of(i64),
    /// Those that this snapshot sees.
    Seen(&'a str),
}

impl PgOutbox {
    /// Delivers up to `limit` changes that nobody else is delivering.
    ///
    /// A change is removed only after its invalidation was acknowledged. If this process dies in between, the
    /// change stays and is delivered again, which does no harm.
    pub(crate) async fn deliver(
        &self,
        connection: &mut PgConnection,
        due: Due<'_>,
        limit: i64,
    ) -> Result<Delivered> {
        let mut transaction = connection.begin().await.map_err(error_from)?;
        let rows = self.take(&mut transaction, due, limit).await.map_err(error_from)?;
        if rows.is_empty() {
            transaction.rollback().await.map_err(error_from)?;
            return Ok(Delivered::default());
        }
        let taken = Instant::now();
        let mut changes = Vec::with_capacity(rows.len());
        let mut oldest = Duration::ZERO;
        for row in &rows {
            changes.push(Change::from_row(row).map_err(error_from)?);
            oldest = oldest.max(seconds(row.try_get("age").map_err(error_from)?));
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("delete_before_bump") {
            transaction.commit().await.map_err(error_from)?;
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.invalidator.invalidate(&groups_of(&changes)).await?;
            return Ok(Delivered { changes: rows.len(), lag: oldest + taken.elapsed() });
        }
        self.invalidator.invalidate(&groups_of(&changes)).await?;
        let lag = oldest + taken.elapsed();
        transaction.commit().await.map_err(error_from)?;
        Ok(Delivered { changes: rows.len(), lag })
    }

    /// Deletes changes. Until the transaction commits they are locked, and still there for everyone else.
    async fn take(
        &self,
        connection: &mut PgConnection,
        due: Due<'_>,
        limit: i64,
    ) -> sqlx::Result<Vec<PgRow>> {
        let condition = match due {
            Due::Now => "(held_until IS NULL OR held_until <= clock_timestamp())",
            Due::Of(_) => "xid = $2::text::xid8",
            Due::Seen(_) => {
                "xid < pg_snapshot_xmax($2::pg_snapshot) AND pg_visible_in_snapshot(xid, $2::pg_snapshot)"
            }
        };
        let query = format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM {table} WHERE {condition} ORDER BY xid, id LIMIT $1 FOR UPDATE SKIP LOCKED))
             RETURNING {COLUMNS}, extract(epoch FROM clock_timestamp() - written_at)::float8 AS age",
            table = self.table()
        );
        let query = sqlx::query(AssertSqlSafe(query)).bind(limit);
        match due {
            Due::Now => query.fetch_all(connection).await,
            Due::Of(xid) => query.bind(xid).fetch_all(connection).await,
            Due::Seen(snapshot) => query.bind(snapshot).fetch_all(connection).await,
        }
    }
}
