//! SQLite files, also those that other processes write to.

mod install;
mod outbox;
mod queue;
mod relay;
mod rows;
mod sql;
mod transaction;

pub use crate::sqlite::outbox::SqliteOutbox;
pub use crate::sqlite::relay::SqliteRelay;
pub use crate::sqlite::transaction::SqliteCacheTransaction;
