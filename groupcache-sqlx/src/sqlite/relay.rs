//! The task that delivers changes.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::FutureExt;
use groupcache_core::{ErrorKind, Result};
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::delivery::{Delivered, Delivery};
use crate::error::error_from;
use crate::sqlite::outbox::SqliteOutbox;
use crate::sqlite::queue::Cursor;
use crate::stats::RelayStats;

/// What is not about to be delivered by the process that wrote it.
const DUE: &str = "held_until IS NULL OR held_until <= julianday('now')";

/// Delivers the changes in an outbox: invalidates their groups.
///
/// It has a connection of its own, made with the options of the pool, and looks at the file's `data_version`, which
/// any other connection changes when it commits, in this process or another.
#[derive(Debug)]
#[must_use = "a relay does nothing before it runs"]
pub struct SqliteRelay {
    outbox: SqliteOutbox,
    poll_interval: Duration,
    batch_rows_max: u32,
    retention: Duration,
    stats: RelayStats,
}

impl SqliteOutbox {
    /// Returns a relay that delivers the changes in this outbox.
    pub fn relay(&self) -> SqliteRelay {
        SqliteRelay {
            outbox: self.clone(),
            poll_interval: Duration::from_millis(50),
            batch_rows_max: 1000,
            retention: Duration::from_secs(3600),
            stats: RelayStats::default(),
        }
    }
}

impl SqliteRelay {
    /// Sets how often the relay looks whether the file has changed. Defaults to 50 ms.
    ///
    /// This is the lag. A look costs some microseconds.
    pub const fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets how many changes are invalidated at once. Defaults to 1000; 0 counts as 1.
    ///
    /// Repeated groups in a batch are invalidated once.
    pub const fn batch_rows_max(mut self, rows: u32) -> Self {
        self.batch_rows_max = rows;
        self
    }

    /// Sets how long changes stay in an outbox that is delivered to [every process](SqliteOutbox::fan_out). Defaults
    /// to an hour. A process that cannot read for longer drops everything.
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Returns the counters of this relay.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        self.stats.clone()
    }

    /// Delivers changes until `shutdown` is ready, then ends after the batch in flight.
    ///
    /// If the database or the invalidator fails, the relay waits, for up to 5 seconds, and tries again. Changes stay
    /// in the outbox meanwhile.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if, at the first connection, nothing is installed, or something that this
    /// release or this handle cannot work with.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let (mut backoff, mut cursor, mut has_connected) = (Backoff::new(), Cursor::default(), false);
        loop {
            let ended = match self.connect().await {
                Ok(connection) => {
                    has_connected = true;
                    self.work(connection, &mut cursor, &mut backoff, shutdown.as_mut()).await
                }
                Err(error) if error.kind() == ErrorKind::Configuration && !has_connected => {
                    return Err(error);
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return Ok(()) };
            self.stats.failed();
            let pause = backoff.next_pause();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                ?pause,
                "the relay failed and tries again"
            );
            tokio::select! { () = sleep(pause) => {}, () = &mut shutdown => return Ok(()) }
        }
    }

    async fn connect(&self) -> Result<SqliteConnection> {
        let mut connection = self.outbox.pool.connect_options().connect().await.map_err(error_from)?;
        self.outbox.check_version(&mut connection).await?;
        Ok(connection)
    }

    async fn work(
        &self,
        mut connection: SqliteConnection,
        cursor: &mut Cursor,
        backoff: &mut Backoff,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<()> {
        let mut seen = None;
        loop {
            let version: i64 = sqlx::query_scalar("PRAGMA data_version")
                .fetch_one(&mut connection)
                .await
                .map_err(error_from)?;
            // Read before the changes: what is committed in between is read next time again, not never.
            if seen != Some(version) {
                let delivered = self.deliver(&mut connection, cursor).await?;
                backoff.reset();
                if delivered.changes > 0 {
                    self.stats.delivered(delivered.changes, delivered.lag);
                }
                // Until nothing is left, not even what another process holds.
                seen = self.is_done(&mut connection).await?.then_some(version);
                if delivered.changes >= self.batch_rows_max.max(1) as usize
                    && shutdown.as_mut().now_or_never().is_none()
                {
                    continue;
                }
            }
            tokio::select! {
                () = sleep(self.poll_interval) => {}
                () = self.outbox.progress.wanted() => seen = None,
                () = shutdown.as_mut() => return Ok(()),
            }
        }
    }

    async fn deliver(&self, connection: &mut SqliteConnection, cursor: &mut Cursor) -> Result<Delivered> {
        match self.outbox.delivery() {
            Delivery::Queue => self.outbox.deliver(connection, DUE, self.batch_rows_max.max(1)).await,
            Delivery::FanOut => {
                let delivered = self.outbox.read_on(connection, cursor).await?;
                self.outbox.prune(connection, cursor, self.retention).await?;
                Ok(delivered)
            }
        }
    }

    async fn is_done(&self, connection: &mut SqliteConnection) -> Result<bool> {
        if self.outbox.delivery() == Delivery::FanOut {
            return Ok(true);
        }
        let query = "SELECT NOT EXISTS (SELECT 1 FROM groupcache_outbox)";
        sqlx::query_scalar(query).fetch_one(connection).await.map_err(error_from)
    }
}
