//! The handle on an installation.

use std::fmt;
use std::sync::Arc;

use groupcache_core::{BoxInvalidator, Invalidator};
use sqlx::SqlitePool;

use crate::delivery::Delivery;
use crate::own_changes::OwnChanges;
use crate::progress::Progress;

/// The outbox of an SQLite file: what its triggers write, and what is invalidated from it.
///
/// Cheap to clone; clones are the same outbox. Writers in other processes, such as the `sqlite3` shell, are noticed:
/// the triggers are in the file. A database in memory, which has no file, is not supported.
///
/// ```no_run
/// use groupcache_core::{Cache, Model};
/// use groupcache_memory::MemoryBackend;
/// use groupcache_sqlx::{SqliteOutbox, Watch, Watches};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Book { id: i64 }
/// # impl Model for Book {
/// #     const NAME: &'static str = "book";
/// #     const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
/// # }
///
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
/// let outbox = SqliteOutbox::new(pool, cache.clone());
/// outbox.install(&Watches::new().with(Watch::<Book>::table("books"))).await?;
/// tokio::spawn(outbox.relay().run(std::future::pending()));
///
/// let mut transaction = outbox.begin().await?;
/// sqlx::query("UPDATE books SET title = 'Emma' WHERE id = 5").execute(&mut *transaction).await?;
/// transaction.commit().await?; // no reader gets an old value from here on
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteOutbox {
    pub(crate) pool: SqlitePool,
    pub(crate) invalidator: BoxInvalidator,
    pub(crate) invalidate_all: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) own_changes: Arc<OwnChanges>,
}

impl SqliteOutbox {
    /// Returns a handle that invalidates through `invalidator`, usually a [`Cache`](groupcache_core::Cache). Does not
    /// open the file.
    ///
    /// Of several processes that use one file, each needs [`fan_out`](Self::fan_out), unless their caches are on a
    /// store that they share.
    #[must_use]
    pub fn new(pool: SqlitePool, invalidator: impl Invalidator) -> Self {
        Self {
            pool,
            invalidator: BoxInvalidator::new(invalidator),
            invalidate_all: None,
            progress: Arc::new(Progress::new()),
            own_changes: Arc::default(),
        }
    }

    /// Delivers every change to every process, for caches that live in each process.
    ///
    /// By default, one relay takes a change from the outbox, and no other process sees it. With this, changes stay
    /// in the outbox for an hour, and each process runs a [relay](Self::relay) that reads all of them. A process that
    /// was away for too long to know what it missed calls `invalidate_all`, such as
    /// `MemoryBackend::invalidate_all`. So does one that starts: call [`flush_all`](Self::flush_all) once the
    /// relay runs, and serve requests after that.
    ///
    /// The choice is part of the installation: all processes make the same.
    #[must_use]
    pub fn fan_out(self, invalidate_all: impl Fn() + Send + Sync + 'static) -> Self {
        Self { invalidate_all: Some(Arc::new(invalidate_all)), ..self }
    }

    pub(crate) const fn delivery(&self) -> Delivery {
        match self.invalidate_all {
            Some(_) => Delivery::FanOut,
            None => Delivery::Queue,
        }
    }
}

impl fmt::Debug for SqliteOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOutbox").field("delivery", &self.delivery().as_str()).finish_non_exhaustive()
    }
}
