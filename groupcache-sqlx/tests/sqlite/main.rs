//! groupcache on real SQLite files.

mod crash;
mod delivery;
mod install;
mod matrix;
mod support;
