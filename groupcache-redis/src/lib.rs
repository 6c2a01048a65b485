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
//! * A group's key guards a *token*, 128 random bits drawn for each attempt on the wire. The
//!   *generation* that entries are validated by is made of that token and of the life of the server
//!   that answered (a BLAKE3 digest of it, by exclusive or): its `run_id`, drawn when it started, and its `master_replid`, drawn when
//!   it was promoted. A server that comes back with older data, or a replica that is promoted without
//!   the last invalidations, brings back tokens and entries, and none of them validates.
//! * The life of the server is asked for once on each connection, and the two are held together: a new
//!   connection is a new question.
//! * In a Redis Cluster each primary has a connection of its own, and the life of a node has a third part:
//!   its configuration epoch (`cluster_my_epoch`). See below.
//! * What was evicted, expired or flushed is missing, and what is missing is a miss.
//! * A write that was not acknowledged is an error and its token is never used. The client library
//!   repeats nothing on its own. This crate sends once more, with new tokens, only where the connection
//!   turned out to be closed.
//! * An invalidation for which the server has no memory removes the generation instead.
//!
//! # Redis Cluster
//!
//! What is read of a group counts only together with the life of the node that answered, so whatever
//! changes which node that is, or which life it leads, makes entries stale and never brings one back:
//!
//! * A replica that is promoted is another process; one that was a primary before has another
//!   `master_replid`.
//! * A slot that moves takes its tokens to another node, where they are other generations.
//! * A slot that comes *back* finds the same process. Its token may be older than the last invalidation,
//!   if the other node acknowledged that and then lost it. But a node that is given a slot by another one
//!   raises its configuration epoch above that of all others, unless it is the highest already; and the
//!   other node did the same when it was given the slot before. So the epoch of a node is a higher one
//!   each time a slot comes back, and it is part of the life. As it changes while connections last, each
//!   lookup asks for it again, in the same pipeline and after what it reads;
//!   [`cluster_check_interval`](RedisBackendBuilder::cluster_check_interval) makes that less often.
//! * While a slot is on its way back, its keys are there before the epoch is raised. What is read of them
//!   through the node that still has the slot (`ASK`) counts together with the lives of both nodes.
//! * An invalidation goes to the node that has the slot. Where that node says that another one has it,
//!   nothing was done, and it is sent there with a new token. While a slot moves, its keys move one at a
//!   time and whole (`MIGRATE` stops both nodes for that); a key that is not there any more is asked for
//!   at the node that the slot goes to (`ASK`).
//!
//! This rests on the cluster's own rules: slots are given with `SETSLOT IMPORTING`, `MIGRATING`, `NODE`
//! (as `redis-cli --cluster` and operators for Kubernetes do), not with `ADDSLOTS` or `DELSLOTS` while there is
//! data; epochs become known to all nodes; a primary that the majority has given up stops answering
//! (`cluster-allow-reads-when-down no`, the default).
//!
//! # Limits
//!
//! * A migration of a slot that is abandoned (`SETSLOT STABLE`) after the node that it went to has crashed
//!   or failed over leaves the epoch of the first node as it was. Raise it with `CLUSTER BUMPEPOCH` there, or
//!   remove the keys of the slot: an invalidation that was lost may be undone otherwise.
//! * A server must not be brought back as a copy of its memory (a snapshot of its virtual machine, say): that is
//!   the same life with older data.
//! * A cluster has one circuit breaker: while a node is dead, lookups that need only others may pass by too.
//! * Giving a lease back takes `EVAL`; where the user may not, leases run out by themselves.
//! * A primary of a cluster that hangs, is replaced and goes on answers as before for the moment until it
//!   is told, to connections that outlived it: keep
//!   [`watch_interval`](RedisBackendBuilder::watch_interval) and
//!   [`response_time_limit`](RedisBackendBuilder::response_time_limit) together below
//!   `cluster-node-timeout`. `CLUSTER FAILOVER TAKEOVER` against a primary that is alive has two primaries
//!   for that moment.
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
//! | lease | as a mint of the groups that have no generation, and `SET NX GET PX` of the lease; to give it back `EVAL` of `GET` and `UNLINK` |
//! | in a cluster | the same to all nodes concerned at once, a command for each key (`GET`) instead of `MGET`; and `CLUSTER INFO` after them, for lookups, mints and leases; one more round trip for keys whose slot has moved, or is moving |
//! | connect | the client's `HELLO` or `AUTH`, `SELECT`, `CLIENT SETINFO`; and `INFO` twice, pipelined, with `CLUSTER INFO` in a cluster; under Sentinel a question to it before and after |
//!
//! And `INFO` twice in every [`watch_interval`](RedisBackendBuilder::watch_interval); in a cluster
//! `CLUSTER SLOTS` of one node too, and `CLUSTER INFO` of each. All commands are
//! described at <https://redis.io/docs/latest/commands/>. One connection serves all tasks. Runs on tokio.
//!
//! # Features
//!
//! `tls` for `rediss://`, with rustls. Sentinel and Cluster need none.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![doc(test(attr(deny(unused_must_use))))]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod advice;
mod backend;
mod builder;
mod cluster;
mod connection;
mod error;
mod lookups;
#[cfg(groupcache_mutants)]
mod mutants;
mod names;
mod route;
mod sentinel;
mod server;
mod writes;

pub use redis;

pub use crate::advice::Advice;
pub use crate::backend::RedisBackend;
pub use crate::builder::RedisBackendBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
