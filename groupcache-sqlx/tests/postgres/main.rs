//! groupcache on a real PostgreSQL.

mod canonical_text;
mod install;
mod server;
mod support;
