//! groupcache on a real PostgreSQL.

mod canonical_text;
mod install;
mod matrix;
mod server;
mod support;
