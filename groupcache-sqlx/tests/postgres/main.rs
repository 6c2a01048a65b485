//! groupcache on a real PostgreSQL.

mod canonical_text;
mod fan_out;
mod install;
mod matrix;
mod relay;
mod server;
mod support;
mod transaction;
