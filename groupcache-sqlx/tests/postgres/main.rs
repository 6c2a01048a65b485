//! groupcache on a real PostgreSQL.

mod canonical_text;
mod crash;
mod fan_out;
mod history;
mod install;
mod matrix;
mod odd_tables;
mod operations;
mod process;
mod relay;
mod server;
mod support;
mod transaction;
