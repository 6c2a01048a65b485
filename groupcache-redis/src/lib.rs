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
//!   and replaces both together. It opens at least two connections of the client to a server, one for entries
//!   and one for generations, so that an invalidation does not wait for the bodies of others. All of them must
//!   lead to the same incarnation, so a process reads where it invalidates.
//! * **A server that was demoted is noticed by the request itself.** `INFO replication` follows the commands
//!   in each pipeline. The replies count only if the server is a primary under the `master_replid` of the
//!   connection. A server that was a replica in the meantime has another one. No timer is involved.
//! * **An identity must be one.** `run_id` and `master_replid` must be 40 hexadecimal digits that are not all
//!   alike. If a proxy or a service hides or masks them, connecting fails.
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
//! * **Sizes.** Keys and groups have any length. A body has at most 8 MiB, or up to 511 MiB with
//!   [`max_entry_bytes`](RedisBackendBuilder::max_entry_bytes).
//! * **Time to live.** The resolution is 1 millisecond, rounded up. The maximum is 100 years. Entries without
//!   a time to live get the [default](RedisBackendBuilder::default_time_to_live) of 30 days.
//! * **Clock.** The server expires keys by its own clock. No decision about validity compares two clocks.
//! * **First replica.** If the first replica joins a server, or none has been connected for an hour,
//!   `master_replid` changes and every entry is a miss once.
//! * **Snapshots of memory.** A server must not be restored from a copy of its memory, such as a snapshot of
//!   its virtual machine. That is the same incarnation with older data.
//! * **One server for each connection.** A connection must lead to the same server while it lasts. `SWAPDB` is
//!   not supported, and neither are proxies that spread the commands of one connection over several servers.
//!   An address that leads to several servers by turns is an error when the backend connects.
//! * **Leases.** The backend releases a lease with `EVAL`. If the user in the URL may not use that, leases
//!   expire.
//! * **Dead nodes.** If a node of a cluster does not answer, what it has counts as missing, and invalidations
//!   that need it fail. The other nodes are used as before. Each node has a circuit breaker of its own.
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
//! * **An address leads to another primary, and the old one continues.** Examples are a change of a DNS name
//!   and a virtual address. The backend connects to the address once per
//!   [`watch_interval`](RedisBackendBuilder::watch_interval), which resolves the name again, and leaves the
//!   old server if another one answers, or none. Until then, for up to that interval and the time to connect,
//!   a process reads and invalidates on the old server. Demote or stop the old primary first: then it serves
//!   nothing from that moment on.
//! * **An address leads back to a primary that it led to before.** That server missed the invalidations in
//!   between. Restart it, or make it a replica for a moment, before the address leads to it again. A process
//!   that was connected to both refuses the first one otherwise. Others cannot know.
//! * **A migration of a slot is cancelled, and keys that had moved already are moved back.** What is invalidated
//!   while the owner lacks a key does not reach that key, and neither does what the other node lost in a crash.
//!   Remove the keys at the other node instead, or complete the migration. To begin the migration again is safe.
//!
//! # Cost
//!
//! | operation | one round trip of |
//! |---|---|
//! | lookup | `MGET` of the entry and all generations; with the time left between two `PTTL` |
//! | several lookups | one `MGET` each, pipelined |
//! | mint | for each group `SET NX GET PX` and `PEXPIRE`, pipelined; before 7.0 `SET NX PX`, `GET` and `PEXPIRE` |
//! | bump | for each group `SET XX KEEPTTL`, pipelined, then `WAIT` if set; one more round trip of `UNLINK` if the server is out of memory |
//! | store | `SET PX`, and `PEXPIRE` for each group, pipelined |
//! | delete | `UNLINK` |
//! | lease | a mint of the groups that have no generation, and `SET NX GET PX` of the lease, pipelined |
//! | release | `EVAL` of `GET` and `UNLINK` |
//!
//! `INFO replication` follows in the same pipeline. It takes the server about 1 µs, and 360 bytes of the reply.
//!
//! In a cluster, each operation goes to all nodes concerned at once. There is one `GET` for each key instead
//! of `MGET`, and `CLUSTER INFO` follows where generations are read, minted or leased. A key whose slot has
//! moved or is moving costs one more round trip.
//!
//! Concurrent lookups share requests: while two are on their way to a server, in a cluster one to a node, the
//! lookups that come meanwhile wait, and go out together in the next. They share its `INFO` or `CLUSTER INFO`
//! too. A lookup never joins a request that was sent before the lookup began. Where entries are larger than
//! 16 KiB on average, each lookup has a request of its own.
//!
//! Connecting takes the client's `HELLO` or `AUTH`, `SELECT` and `CLIENT SETINFO` for each connection of the
//! client, and then one round trip of two `INFO`, in a cluster with `CLUSTER INFO`. At the same time the
//! backend tries each command that it needs on a key that does not exist. With Sentinel, a query to all
//! sentinels precedes and follows. The same `INFO` is sent once per
//! [`watch_interval`](RedisBackendBuilder::watch_interval), and once more on a new connection. In a cluster,
//! one node is sent `CLUSTER SLOTS` as often.
//!
//! The connections serve all tasks. The commands are described at <https://redis.io/docs/latest/commands/>.
//! The backend needs a tokio runtime.
//!
//! # Permissions
//!
//! The user in the URL needs these commands, on keys that begin with the
//! [`key_prefix`](RedisBackendBuilder::key_prefix):
//!
//! ```text
//! ACL SETUSER cache on >password ~groupcache:* +mget +get +set +pexpire +unlink +info
//! ```
//!
//! If one of them is missing, connecting fails with an error that names it. `INFO` is in the category
//! `@dangerous`, so `-@dangerous` alone is not enough: add `+info` after it.
//!
//! | permission | what it adds |
//! |---|---|
//! | `+pttl` | entries with `stale_while_revalidate` or `stale_if_error`, and reads inside of loads: without it, the former are never hits, and what is loaded with the latter is not kept |
//! | `+eval` | leases are released when a load ends, and do not have to expire |
//! | `+wait` | [`wait_for_replicas`](RedisBackendBuilder::wait_for_replicas), which needs it |
//! | `+config\|get` | more [advice](RedisBackend::advice), about `save` and `stop-writes-on-bgsave-error` |
//! | `+client\|setinfo` | the name of the client in `CLIENT LIST` |
//! | `+select` | a database other than 0, which needs it |
//!
//! `MULTI` is not used. A cluster needs `+cluster|slots +cluster|info +asking` as well, and no `MGET`. Before
//! Redis 7.0, permissions for subcommands are those of the command, such as `+cluster`. A sentinel needs
//! `+sentinel|get-master-addr-by-name +sentinel|master`.
//!
//! # Services
//!
//! The backend works with servers and services that show the identity of a server in `INFO`, and keep a
//! connection on one server. Redis Enterprise (recognised by `rlec_version`) and Dragonfly (which has no
//! `run_id`) do not, and connecting to them is an error. `docs/services.md` in the repository lists hosted
//! services, and the settings to check.
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
mod permissions;
mod route;
mod server;
mod settings;
mod urls;

pub use redis;

pub use crate::advice::Advice;
pub use crate::backend::RedisBackend;
pub use crate::builder::RedisBackendBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
