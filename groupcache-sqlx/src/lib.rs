//! Invalidation that comes from the database, whatever wrote to it.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod backoff;
mod change;
mod delivery;
mod error;
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
