//! Waiting until changes are delivered.

use std::time::Duration;

use groupcache_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{sleep, timeout};

use crate::delivery::{Backlog, Delivery, seconds};
use crate::error::{NAME, configuration, error_from};
use crate::postgres::outbox::PgOutbox;
use crate::postgres::queue::Due;

/// How many changes are delivered at once.
const BATCH: i64 = 1000;

/// How often to look whether another relay has delivered what it had taken.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a flush may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

impl PgOutbox {
    /// Waits until the changes of one transaction are delivered: the caller's own writes are visible afterwards.
    ///
    /// For transactions that [`begin`](Self::begin) did not begin, such as those of an ORM. Read the number with
    /// `SELECT pg_current_xact_id()::text::bigint` inside the transaction, and call this after its commit. It
    /// delivers what no relay has taken yet, and waits for the rest.
    ///
    /// Needs a running [`relay`](Self::relay) only where changes are delivered to
    /// [every process](Self::fan_out); there it waits for the cache of this process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the transaction is still open, [`ErrorKind::Timeout`] after ten seconds,
    /// and what the database or the invalidator returns. The changes stay in the outbox then.
    pub async fn flush(&self, transaction: i64) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        let status: Option<String> = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
            .bind(transaction)
            .fetch_one(&mut *connection)
            .await
            .map_err(error_from)?;
        if status.as_deref() == Some("in progress") {
            return Err(configuration(format!("transaction {transaction} is open: flush after its commit")));
        }
        self.flush_due(&mut connection, Due::Of(transaction)).await
    }

    /// Waits until all changes that are committed now are delivered.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub async fn flush_all(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await.map_err(error_from)?;
        let snapshot: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(&mut *connection)
            .await
            .map_err(error_from)?;
        self.flush_due(&mut connection, Due::Seen(&snapshot)).await
    }

    /// Returns how much waits in the outbox, for metrics. Counts the rows.
    ///
    /// # Errors
    ///
    /// What the database returns.
    pub async fn backlog(&self) -> Result<Backlog> {
        let query = format!(
            "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(written_at)), 0)::float8 FROM {}",
            self.table()
        );
        let (rows, oldest): (i64, f64) =
            sqlx::query_as(AssertSqlSafe(query)).fetch_one(&self.pool).await.map_err(error_from)?;
        Ok(Backlog { rows: rows.unsigned_abs(), oldest: seconds(oldest) })
    }

    async fn flush_due(&self, connection: &mut PgConnection, due: Due<'_>) -> Result<()> {
        let flush = async {
            match self.delivery() {
                Delivery::Queue => {
                    while self.is_left(connection, due).await? {
                        if self.deliver(connection, due, BATCH).await?.changes == 0 {
                            sleep(PAUSE).await;
                        }
                    }
                }
                Delivery::FanOut => self.progress.wait_for_next().await,
            }
            Ok(())
        };
        let outcome = timeout(TIME_LIMIT, flush).await;
        outcome.unwrap_or_else(|_| {
            let message = "changes were not delivered in time; is a relay running?";
            Err(Error::new(ErrorKind::Timeout, NAME).with_message(message))
        })
    }

    async fn is_left(&self, connection: &mut PgConnection, due: Due<'_>) -> Result<bool> {
        let condition = match due {
            Due::Now => "$1::text IS NULL",
            Due::Of(_) => "xid = $1::xid8",
            Due::Seen(_) => {
                "xid < pg_snapshot_xmax($1::pg_snapshot) AND pg_visible_in_snapshot(xid, $1::pg_snapshot)"
            }
        };
        let argument = match due {
            Due::Now => None,
            Due::Of(xid) => Some(xid.to_string()),
            Due::Seen(snapshot) => Some(snapshot.to_owned()),
        };
        let query = format!("SELECT EXISTS (SELECT FROM {} WHERE {condition})", self.table());
        sqlx::query_scalar(AssertSqlSafe(query))
            .bind(argument)
            .fetch_one(connection)
            .await
            .map_err(error_from)
    }
}
