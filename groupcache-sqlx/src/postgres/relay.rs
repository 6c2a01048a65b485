//! The task that delivers changes.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::FutureExt;
use groupcache_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::delivery::{Delivered, Delivery};
use crate::error::{NAME, error_from};
use crate::postgres::fan_out::Cursor;
use crate::postgres::outbox::PgOutbox;
use crate::postgres::queue::Due;
use crate::stats::RelayStats;

/// How long one delivery may take before the connection counts as lost.
const DELIVERY_TIME_LIMIT: Duration = Duration::from_secs(30);

/// Delivers the changes in an outbox: invalidates their groups.
///
/// Run as many as you like, in the application or alone. Several relays share the work. The relay has
/// connections of its own, made with the options of the pool: one works, one listens.
///
/// ```no_run
/// # async fn example(outbox: groupcache_sqlx::PgOutbox) {
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let relay = outbox.relay();
/// let stats = relay.stats();
/// let running = tokio::spawn(relay.run(async move { drop(stopped.await) }));
/// println!("lag: {:?}", stats.lag());
///
/// drop(stop);
/// let ended = running.await;
/// # drop(ended);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a relay does nothing before it runs"]
pub struct PgRelay {
    outbox: PgOutbox,
    poll_interval: Duration,
    batch_rows_max: u32,
    retention: Duration,
    stats: RelayStats,
}

impl PgOutbox {
    /// Returns a relay that delivers the changes in this outbox.
    pub fn relay(&self) -> PgRelay {
        PgRelay {
            outbox: self.clone(),
            poll_interval: Duration::from_millis(250),
            batch_rows_max: 1000,
            retention: Duration::from_secs(3600),
            stats: RelayStats::default(),
        }
    }
}

/// The connections of a running relay.
struct Session {
    work: PgConnection,
    listener: PgListener,
}

/// Why a relay stops waiting.
enum Wake {
    Deliver,
    Shutdown,
}

impl PgRelay {
    /// Sets how often the relay looks for changes if nothing wakes it. Defaults to 250 ms.
    ///
    /// Changes wake the relay with `NOTIFY`, unless the server allows two-phase commits
    /// (`max_prepared_transactions` above 0): a transaction that notifies cannot be prepared. On such a server this
    /// interval is the lag.
    pub const fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// Sets how many changes are taken and invalidated at once. Defaults to 1000; 0 counts as 1.
    ///
    /// Repeated groups in a batch are invalidated once.
    pub const fn batch_rows_max(mut self, rows: u32) -> Self {
        self.batch_rows_max = rows;
        self
    }

    /// Sets how long changes stay in an outbox that is delivered to [every process](PgOutbox::fan_out). Defaults
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
    /// If the database or the invalidator fails, the relay waits, for up to 5 seconds, and tries again. Changes
    /// stay in the outbox meanwhile. If this future is dropped, the batch in flight is delivered again by
    /// the next relay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if, at the first connection, nothing is installed, or something that this
    /// release or this handle cannot work with.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let (mut backoff, mut cursor, mut has_connected) = (Backoff::new(), Cursor::default(), false);
        loop {
            let session = self.connect();
            let ended = match tokio::select! { session = session => session, () = &mut shutdown => return Ok(()) }
            {
                Ok(session) => {
                    has_connected = true;
                    self.work(session, &mut cursor, &mut backoff, shutdown.as_mut()).await
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

    async fn connect(&self) -> Result<Session> {
        let options = self.outbox.pool.connect_options();
        let connect = async {
            let mut work = options.connect().await.map_err(error_from)?;
            // If this process hangs, the server gives the changes that it has taken to another relay.
            sqlx::query("SET idle_in_transaction_session_timeout = '60s'")
                .execute(&mut work)
                .await
                .map_err(error_from)?;
            self.outbox.check_version(&mut work).await?;
            let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with((*options).clone());
            let mut listener = PgListener::connect_with(&pool).await.map_err(error_from)?;
            listener.listen(&self.outbox.schema).await.map_err(error_from)?;
            Ok(Session { work, listener })
        };
        timeout(DELIVERY_TIME_LIMIT, connect)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, NAME)))
    }

    /// Delivers until `shutdown` is ready. What came while there was no connection is delivered first.
    async fn work(
        &self,
        mut session: Session,
        cursor: &mut Cursor,
        backoff: &mut Backoff,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<()> {
        loop {
            let delivery = self.deliver(&mut session.work, cursor);
            let delivered = timeout(DELIVERY_TIME_LIMIT, delivery)
                .await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, NAME)))?;
            backoff.reset();
            if delivered.changes > 0 {
                self.stats.delivered(delivered.changes, delivered.lag);
            }
            let is_full = delivered.changes >= self.batch_rows_max.max(1) as usize;
            if is_full && self.outbox.delivery() == Delivery::Queue {
                let is_shut_down = shutdown.as_mut().now_or_never().is_some();
                if is_shut_down {
                    return Ok(());
                }
                continue;
            }
            match self.wait(&mut session.listener, shutdown.as_mut()).await? {
                Wake::Deliver => {}
                Wake::Shutdown => return Ok(()),
            }
        }
    }

    async fn deliver(&self, work: &mut PgConnection, cursor: &mut Cursor) -> Result<Delivered> {
        match self.outbox.delivery() {
            Delivery::Queue => {
                self.outbox.deliver(work, Due::Now, i64::from(self.batch_rows_max.max(1))).await
            }
            Delivery::FanOut => {
                let delivered = self.outbox.read_on(work, cursor).await?;
                self.outbox.prune(work, cursor, self.retention).await?;
                Ok(delivered)
            }
        }
    }

    async fn wait(
        &self,
        listener: &mut PgListener,
        shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Wake> {
        tokio::select! {
            notification = listener.try_recv() => match notification.map_err(error_from)? {
                Some(_) => {
                    // One delivery is enough for all that came so far.
                    while listener.next_buffered().is_some() {}
                    Ok(Wake::Deliver)
                }
                None => Err(Error::new(ErrorKind::Unavailable, NAME).with_message("the connection that listens was lost")),
            },
            () = self.outbox.progress.wanted() => Ok(Wake::Deliver),
            () = sleep(self.poll_interval) => Ok(Wake::Deliver),
            () = shutdown => Ok(Wake::Shutdown),
        }
    }
}
