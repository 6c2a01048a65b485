//! What the tests against real servers share: the servers, faults between them and their clients, and the
//! check of every read.

#![doc(test(attr(deny(unused_must_use))))]
#![warn(missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

pub mod bookstore;
pub mod broken;
pub mod broken_memcached;
pub mod broken_redis;
mod documents;
pub mod fake_server;
pub mod history;
pub mod log;
pub mod memcached_server;
pub mod postgres_server;
pub mod process;
pub mod proxy;
pub mod redis_cluster;
pub mod redis_server;
pub mod shorthand;
pub mod turns;
