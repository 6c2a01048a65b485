//! Invalidation that comes from the database, whichever program wrote to it.
//!
//! Triggers write the groups of each changed row to an outbox table, in the same transaction. A relay invalidates
//! them after the commit. Nothing has to call [`invalidate`](groupcache_core::Invalidator::invalidate).
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! use groupcache_core::{Cache, Group};
//! use groupcache_memory::MemoryBackend;
//! use groupcache_sqlx::{PgOutbox, Watches, watch};
//!
//! let backend = MemoryBackend::with_max_bytes(64 << 20);
//! let cache = Cache::builder(backend.clone()).build();
//! // A cache in the memory of each process. Leave `fan_out` out for a store that all processes share.
//! let outbox = PgOutbox::new(pool.clone(), cache.clone()).fan_out(move || backend.invalidate_all());
//! outbox.install(&Watches::new().with(watch("books").group("book", ["id"]))).await?;
//! tokio::spawn(outbox.relay().run(std::future::pending()));
//! outbox.flush_all().await?;
//!
//! let load = async || sqlx::query_scalar("SELECT title FROM books WHERE id = 5").fetch_one(&pool).await;
//! let title: String = cache.get_or_load(&("title", 5), Group::new("book").with("id", 5), load).await?;
//! println!("{title}, until the row changes");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - A change and its outbox row are committed together. The row is removed after the cache acknowledged the
//!   invalidation. A process that dies in between loses nothing.
//! - A change invalidates the groups of its old and of its new row, and no other.
//! - After the `commit` of a transaction that `begin` of an outbox began, no read returns a value from before it.
//!   Other changes are visible after the lag of the relay.
//! - Where each process has a cache of its own, each process sees every change, also of transactions that commit
//!   after later ones. A process that was away for too long drops everything.
//!
//! # Limits
//!
//! - The definition of a table can change without its triggers: `ALTER TABLE`, `ATTACH PARTITION`. So can what
//!   logical replication applies, and a restored backup. Invalidate by hand after these.
//! - A load that reads from a replica which lags stores old data under a new generation.
//! - Fields of groups have the types that have one text in the database and in Rust. `install` refuses others.
//! - `docs/database.md` in the repository lists what operations of a server mean for the cache, such as a failover.
//!
//! # Cost
//!
//! - A write costs one trigger call for each statement on PostgreSQL and one for each row on SQLite, and one outbox
//!   row for each group.
//! - A commit that waits for its own invalidation takes two more round trips to the database, and one to the store of
//!   the cache.
//! - The relay takes one round trip to the store for each batch of up to 1000 changes.
//!
//! # Features
//!
//! `postgres` for PostgreSQL 13 and later, `sqlite` for SQLite. Neither is on by default.

#![doc(test(attr(deny(unused_must_use))))]
#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "without a database, only the declarations are of use")
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod backoff;
mod change;
mod delivery;
mod error;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod own_changes;
#[cfg(feature = "postgres")]
mod postgres;
mod progress;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stats;
mod watch;

pub use crate::change::fold_case;
pub use crate::delivery::Backlog;
pub use crate::error::CommitError;
#[cfg(feature = "postgres")]
pub use crate::postgres::{PgCacheTransaction, PgOutbox, PgRelay};
#[cfg(feature = "sqlite")]
pub use crate::sqlite::{SqliteCacheTransaction, SqliteOutbox, SqliteRelay};
pub use crate::stats::RelayStats;
pub use crate::watch::{Column, Watch, Watches, watch};

/// The examples of the README, as tests.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../README.md")]
mod readme {}
