//! groupcache on Redis 6.2 and later, and on Valkey, for applications of many processes.
//!
//! ```no_run
//! use groupcache_core::{Cache, Group};
//! use groupcache_redis::RedisBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = RedisBackend::builder("redis://localhost:6379/0").key_prefix("bookstore").build()?;
//! backend.connect().await?;
//! let cache = Cache::builder(backend).build();
//! let title: String = cache
//!     .get_or_load("title", Group::new("book"), || async { Ok::<_, std::io::Error>("Emma".into()) })
//!     .await?;
//! cache.invalidate(Group::new("book")).await?;
//! # assert_eq!(title, "Emma");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! Those of [`Backend`](groupcache_core::Backend), through crashes, restarts from old snapshots,
//! failovers and evictions of the server:
//!
//! * A group's key holds a *token*, 128 random bits drawn for each attempt on the wire. The
//!   *generation* that entries are validated by is a hash (BLAKE3) of that token and of the life of
//!   the server that answered: its `run_id`, drawn when it started, and its `master_replid`, drawn when
//!   it was promoted. A server that comes back with older data, or a replica that is promoted without
//!   the last invalidations, brings back tokens and entries, and none of them validates.
//! * The life of the server is asked for once on each connection, and the two are held together: a new
//!   connection is a new question.
//! * What was evicted, expired or flushed is missing, and what is missing is a miss.
//! * A write that was not acknowledged is an error and its token is never used. The client library
//!   repeats nothing on its own. This crate sends once more, with new tokens, only where the connection
//!   turned out to be closed.
//! * An invalidation for which the server has no memory removes the generation instead.
//!
//! # Limits
//!
//! * One server, or what Sentinel says is the primary. A node of a Redis Cluster is refused.
//! * A primary that is cut off from the others, with some of your processes on its side, goes on
//!   answering them until the partition ends: set
//!   [`wait_for_replicas`](RedisBackendBuilder::wait_for_replicas), so that it acknowledges no
//!   invalidations, and `min-replicas-to-write`; what *others* invalidate meanwhile it cannot know.
//! * A primary that hangs, is replaced by Sentinel and then goes on as if nothing had happened: keep
//!   [`watch_interval`](RedisBackendBuilder::watch_interval) and
//!   [`response_time_limit`](RedisBackendBuilder::response_time_limit) together below Sentinel's
//!   `down-after-milliseconds` (30 s if not set), so that no connection to it is left by then.
//! * A server that is made a replica by hand, without closing its connections, is read from for up to
//!   [`watch_interval`](RedisBackendBuilder::watch_interval) more.
//! * The address must lead to one server for as long as a connection lasts. Proxies that spread the
//!   commands of one connection over several servers are not supported, nor is `SWAPDB`.
//! * Sizes: keys and groups of any length; bodies up to 511 MiB
//!   ([`max_entry_bytes`](RedisBackendBuilder::max_entry_bytes)). Time to live: to the millisecond,
//!   rounded up; at most a hundred years. Entries without one live 30 days.
//! * When the first replica joins a server, or none has been there for an hour, `master_replid` changes
//!   and everything cached is a miss once.
//!
//! # Cost
//!
//! | operation | one round trip of |
//! |---|---|
//! | lookup | `MGET` of the entry and all generations; with the time left `MULTI`, `MGET`, `PTTL`, `EXEC` |
//! | several lookups | one `MGET` each, pipelined |
//! | mint | for each group `SET NX GET PX` and `PEXPIRE`, pipelined; `SET NX PX`, `GET` before 7.0 |
//! | bump | for each group `SET XX KEEPTTL`, pipelined, and `WAIT` if asked for; one more of `UNLINK` where memory is used up |
//! | store | `SET PX`, and `PEXPIRE` for each group, pipelined |
//! | delete | `UNLINK` |
//! | connect | the client's `HELLO` or `AUTH`, `SELECT`, `CLIENT SETINFO`; and `INFO` twice, pipelined |
//!
//! And `INFO` twice in every [`watch_interval`](RedisBackendBuilder::watch_interval). All commands are
//! described at <https://redis.io/docs/latest/commands/>. One connection serves all tasks. Runs on tokio.
//!
//! # Features
//!
//! `tls` for `rediss://`, with rustls. Sentinel needs none.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod advice;
mod backend;
mod builder;
mod connection;
mod error;
#[cfg(groupcache_mutants)]
mod mutants;
mod server;

pub use redis;

pub use crate::advice::Advice;
pub use crate::backend::RedisBackend;
pub use crate::builder::RedisBackendBuilder;
