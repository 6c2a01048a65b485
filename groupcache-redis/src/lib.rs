//! A groupcache backend for Redis 6.2 and later and for Valkey: one server, Sentinel or Redis Cluster.
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
//! The backend keeps the promises of [`Backend`](groupcache_core::Backend) through crashes, restarts from old
//! snapshots, failovers and evictions of the server:
//!
//! * **A generation belongs to one incarnation of one server.** The key of a group holds a *token*: 128
//!   random bits, drawn for each attempt on the wire. The *generation* is the exclusive or of the token and a
//!   BLAKE3 digest of the server's *incarnation*. The incarnation is its `run_id`, drawn when the process
//!   starts, and its `master_replid`, drawn when the server is promoted. If a server restarts with older
//!   data, or a replica is promoted without the last invalidations, old tokens and entries come back, and
//!   none of them validates.
//! * **A connection belongs to one incarnation.** The backend reads the incarnation once for each connection,
//!   and replaces both together.
//! * **What is missing is a miss.** That holds for evicted, expired and flushed keys.
//! * **A write that was not acknowledged is an error.** Its token is never used. The client library does not
//!   retry. This crate retries once, with new tokens, and only if the connection turned out to be closed. In
//!   a Redis Cluster it also does so if a node received slots, and it follows redirects.
//! * **An invalidation does not need memory.** If the server has none left, the backend removes the
//!   generation instead.
//!
//! # Redis Cluster
//!
//! Each primary has a connection of its own, and the incarnation of a node has a third part: its
//! configuration epoch (`cluster_my_epoch`). A token counts only together with the incarnation of the node
//! that returned it. If another node serves the token, or the same node in another incarnation, entries
//! become stale, and none comes back:
//!
//! * A promoted replica is another process. If it was a primary before, it has another `master_replid` now.
//! * A slot that moves takes its tokens to another node, where they are other generations.
//! * A slot that comes *back* finds the same process. If the other node acknowledged an invalidation and then
//!   lost it, the token may be older than that invalidation. But a node that receives a slot from another
//!   node raises its configuration epoch above all others, unless it is the highest already. The other node
//!   did the same when it received the slot. So the epoch of a node is higher each time a slot comes back.
//!   The epoch can change while a connection lasts, so each lookup reads it again, in the same pipeline and
//!   after the keys. [`cluster_check_interval`](RedisBackendBuilder::cluster_check_interval) makes that less
//!   frequent.
//! * While a slot moves, the new node has keys of it that the owner redirects to (`ASK`). A generation behind
//!   such a redirect counts as missing: a lookup returns none, and a mint is refused, so that what is loaded is
//!   not stored. If the migration is cancelled, invalidations go to the owner again, and do not reach the
//!   generation at the other node. If the migration begins once more, that generation is visible again.
//! * An invalidation goes to the node that owns the slot. If that node redirects, it did nothing, and the
//!   invalidation is sent to the other node with a new token. While a slot moves, its keys move one at a
//!   time, and `MIGRATE` blocks both nodes meanwhile. For a key that has moved already, the owner of the slot
//!   redirects to the new node (`ASK`).
//!
//! This relies on the rules of the cluster:
//!
//! * Slots move with `SETSLOT IMPORTING`, `MIGRATING` and `NODE`, as `redis-cli --cluster` and operators for
//!   Kubernetes do it. `ADDSLOTS` and `DELSLOTS` are not used while there is data.
//! * Configuration epochs become known to all nodes.
//! * A primary stops answering when the majority has marked it as failed (`cluster-allow-reads-when-down no`,
//!   the default).
//!
//! # Limits
//!
//! * **Sizes.** Keys and groups have any length. A body has at most 511 MiB
//!   ([`max_entry_bytes`](RedisBackendBuilder::max_entry_bytes)).
//! * **Time to live.** The resolution is 1 millisecond, rounded up. The maximum is 100 years. Entries without
//!   a time to live get the [default](RedisBackendBuilder::default_time_to_live) of 30 days.
//! * **Clock.** The server expires keys by its own clock. No decision about validity compares two clocks.
//! * **First replica.** If the first replica joins a server, or none has been connected for an hour,
//!   `master_replid` changes and every entry is a miss once.
//! * **Snapshots of memory.** A server must not be restored from a copy of its memory, such as a snapshot of
//!   its virtual machine. That is the same incarnation with older data.
//! * **One server for each connection.** An address must lead to the same server while a connection lasts.
//!   `SWAPDB` is not supported, and neither are proxies that spread the commands of one connection over
//!   several servers.
//! * **Leases.** The backend releases a lease with `EVAL`. If the user in the URL may not use that, leases
//!   expire.
//! * **Circuit breaker.** A cluster has a single circuit breaker. While one node is down, lookups that need
//!   only other nodes may also be skipped.
//!
//! These cases need attention from the operator:
//!
//! * **A primary hangs, Sentinel replaces it, and it continues.** Keep
//!   [`watch_interval`](RedisBackendBuilder::watch_interval) and
//!   [`response_time_limit`](RedisBackendBuilder::response_time_limit) together below Sentinel's
//!   `down-after-milliseconds` (30 seconds by default). Then no connection to that primary is left when it
//!   continues.
//! * **A primary of a cluster hangs, is replaced, and continues.** Until it learns of its replacement, it
//!   answers on connections that outlived the failover. Keep the same two settings together below
//!   `cluster-node-timeout`. `CLUSTER FAILOVER TAKEOVER` against a primary that is alive causes two primaries
//!   for that moment.
//! * **A primary is cut off together with some of your processes.** It answers them until the partition ends.
//!   Set [`wait_for_replicas`](RedisBackendBuilder::wait_for_replicas), so that it acknowledges no
//!   invalidations, and `min-replicas-to-write`. It cannot know what *other* processes invalidate meanwhile.
//! * **A server becomes a replica by hand, with its connections open.** The backend reads from it for up to
//!   one [`watch_interval`](RedisBackendBuilder::watch_interval).
//! * **A migration of a slot is cancelled, and keys that had moved already are moved back.** What is invalidated
//!   while the owner lacks a key does not reach that key, and neither does what the other node lost in a crash.
//!   Remove the keys at the other node instead, or complete the migration. To begin the migration again is safe.
//!
//! # Cost
//!
//! | operation | one round trip of |
//! |---|---|
//! | lookup | `MGET` of the entry and all generations; with the time left `MULTI`, `MGET`, `PTTL`, `EXEC` |
//! | several lookups | one `MGET` each, pipelined |
//! | mint | for each group `SET NX GET PX` and `PEXPIRE`, pipelined; before 7.0 `SET NX PX`, `GET` and `PEXPIRE` |
//! | bump | for each group `SET XX KEEPTTL`, pipelined, then `WAIT` if set; one more round trip of `UNLINK` if the server is out of memory |
//! | store | `SET PX`, and `PEXPIRE` for each group, pipelined |
//! | delete | `UNLINK` |
//! | lease | a mint of the groups that have no generation, and `SET NX GET PX` of the lease, pipelined |
//! | release | `EVAL` of `GET` and `UNLINK` |
//!
//! In a cluster, each operation goes to all nodes concerned at once. There is one `GET` for each key instead
//! of `MGET`, and `CLUSTER INFO` follows lookups, mints and leases. A key whose slot has moved or is moving
//! costs one more round trip.
//!
//! Connecting takes the client's `HELLO` or `AUTH`, `SELECT` and `CLIENT SETINFO`, and then one round trip of
//! two `INFO`, in a cluster with `CLUSTER INFO`. With Sentinel, a query to a sentinel precedes and follows.
//! The same `INFO` is sent once per [`watch_interval`](RedisBackendBuilder::watch_interval). In a cluster,
//! one node is sent `CLUSTER SLOTS` as often.
//!
//! One connection serves all tasks. The commands are described at <https://redis.io/docs/latest/commands/>.
//! The backend needs a tokio runtime.
//!
//! # Features
//!
//! * `tls`: `rediss://` with rustls. Sentinel and Redis Cluster need no feature.

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
mod connection;
mod error;
mod operations;
mod route;
mod server;
mod settings;

pub use redis;

pub use crate::advice::Advice;
pub use crate::backend::RedisBackend;
pub use crate::builder::RedisBackendBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
