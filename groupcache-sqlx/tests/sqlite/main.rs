//! groupcache on real SQLite files.

mod delivery;
mod install;
mod matrix;
mod support;
