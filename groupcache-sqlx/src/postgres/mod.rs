//! PostgreSQL 13 and later.

mod fan_out;
mod flush;
mod install;
mod outbox;
mod progress;
mod queue;
mod relay;
mod rows;
mod sql;
mod transaction;

pub use crate::postgres::flush::Backlog;
pub use crate::postgres::outbox::PgOutbox;
pub use crate::postgres::relay::Relay;
pub use crate::postgres::transaction::CacheTransaction;
