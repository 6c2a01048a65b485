//! PostgreSQL 13 and later.

mod fan_out;
mod flush;
mod install;
mod outbox;
mod queue;
mod relay;
mod rows;
mod sql;
mod transaction;

pub use crate::postgres::outbox::PgOutbox;
pub use crate::postgres::relay::PgRelay;
pub use crate::postgres::transaction::PgCacheTransaction;
