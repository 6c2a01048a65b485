//! A groupcache backend on memcached 1.6 and later, one server or several, for applications of several
//! processes.
//!
//! ```no_run
//! use groupcache_core::{Cache, Group};
//! use groupcache_memcached::MemcachedBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = "memcached://cache-1:11211,cache-2:11211,cache-3:11211";
//! let backend = MemcachedBackend::builder(servers).key_prefix("bookstore").build()?;
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
//! The crate keeps the promises of [`Backend`](groupcache_core::Backend) through crashes, restarts,
//! evictions and network partitions:
//!
//! * **Unique generations.** A generation is 128 random bits, drawn for each attempt on the wire. Numbers
//!   that a server counts, such as CAS numbers, are never generations: they start again after a restart.
//! * **One owner per key.** Each key has one server, by a hash that is the same in every process, on every
//!   platform and in every release. While a server is down, no other server takes its place: its keys are
//!   misses, invalidations of its groups are errors, and the other servers keep working. A server that
//!   returns after a network partition therefore has exactly the invalidations that were acknowledged.
//! * **Lost is missing.** A generation that was evicted, expired or flushed is missing, and an entry with a
//!   missing generation is a miss.
//! * **Acknowledged or failed.** A write without acknowledgement is an error, and its generation is never
//!   used. The crate repeats a request once, with new generations, and only if it found the connection
//!   closed.
//! * **Full servers.** If a server has no memory for an invalidation (`-M`), the generation is deleted
//!   instead.
//! * **Silent connections.** Networks may silently drop connections. When a connection that has worked before
//!   does not respond, its call fails, and the idle connections that have not worked since are closed. The
//!   circuit breaker counts only what happens on new connections.
//! * **Matched responses.** Each command carries a number, and its response must repeat it. A connection on
//!   which a response may still arrive is closed.
//!
//! # Requirements
//!
//! The guarantees rest on these conditions, which are up to the operator:
//!
//! * Each address in the list belongs to one server for as long as the list is used. An address must not
//!   move to another server, and must not be that of a proxy that spreads keys or skips servers that are
//!   down.
//! * Each host name leads to one server, as described [below](#names-of-servers).
//! * All processes use the same list and spell each server alike (`localhost` is not `127.0.0.1`). The order
//!   does not matter. To change the list, follow [the procedure below](#changing-the-list-of-servers).
//! * A server that was removed from the list is empty when it joins again.
//! * A server that keeps its memory across restarts (`-e`) may be used: after an orderly stop nothing was
//!   acknowledged in between. It must not start with an older copy of its memory file.
//! * A server is never restored from a copy of its memory, such as a snapshot of its virtual machine.
//!
//! [`MemcachedBackend::advice`] reports what can be detected: `-e`, and servers of `overlap` that are not
//! empty.
//!
//! # Names of servers
//!
//! A process resolves the names of servers when it connects, for each new connection, and while it uses them,
//! at most every [`resolve_interval`](MemcachedBackendBuilder::resolve_interval).
//!
//! * **Several addresses.** If a name resolves to several addresses, the backend compares the servers at all
//!   of them. One server with several addresses is used. Several servers, as behind a headless service of
//!   Kubernetes, are a [`Configuration`](groupcache_core::ErrorKind::Configuration) error that names the
//!   addresses: list each server instead. The error also appears if the name leads to one server at first and
//!   to several later.
//! * **IPv4 and IPv6.** Of one IPv4 and one IPv6 address, as `localhost` often has, one may refuse connections
//!   or be unreachable. In all other cases, the server must respond at each address.
//! * **A name that moves.** A name may move to another server, which must be empty. Before it moves, stop the
//!   old server, or cut it off from all processes for longer than `resolve_interval`. While both servers can be
//!   reached, invalidations may be lost. A process notices the move within `resolve_interval` and replaces its
//!   connections.
//! * **A name that moves back.** Empty the server first (`flush_all`), or restart it. A process that used the
//!   server before otherwise refuses it with a `Configuration` error, because it may lack invalidations. The
//!   same happens if the name leads to several servers in turn.
//!
//! The backend does not spread keys over the addresses of a name. The processes would learn of a change of the
//! addresses at different moments, and such a change is safe only in
//! [steps](#changing-the-list-of-servers).
//!
//! # Limits
//!
//! * **Sizes.** Keys and groups have any length and content, because they are hashed. Entries are limited by
//!   the server's item limit (`-I`, 1 MiB by default). A larger entry is not stored; the cache counts it, and
//!   the first one is logged.
//! * **Time to live.** The resolution is one second, rounded up. An entry may expire up to a second early or
//!   late, because servers count in seconds. A time to live above 30 days is sent as a date by the server's
//!   own clock, which the handshake reads. Servers represent dates up to 19 January 2038, and a longer time
//!   to live ends then. Entries without a time to live live
//!   [30 days](MemcachedBackendBuilder::default_time_to_live).
//! * **Leases.** The resolution is one second too: a lease may end up to a second early. While the server of
//!   a lease is down, every process loads without waiting.
//! * **Connections.** TLS, authentication and Unix sockets are not supported. Service discovery is possible
//!   with a [`resolver`](MemcachedBackendBuilder::resolver), within the rules for
//!   [names](#names-of-servers).
//! * **Versions.** Servers without the meta protocol, or with the one from before it was declared stable, are
//!   refused.
//! * **Runtime.** The backend requires a tokio runtime.
//!
//! # Cost
//!
//! Each operation sends one batch of commands to each server concerned, to all of them concurrently:
//!
//! | operation | commands in the batch |
//! |---|---|
//! | lookup | `mg` for the entry and for each generation |
//! | several lookups | the same, for all of them together |
//! | mint | `ms` in mode add and `mg` for each group |
//! | lease | the same for each group without a generation, and for the lease |
//! | bump | `ms` in mode replace for each group; one more batch of `md` if a server has no memory |
//! | store | `ms` for the entry, and `mg` without the value for each group, to read its time left |
//! | delete | `md` |
//! | release of a lease | `mg`, then a second batch of `md` with the CAS number |
//! | connect | `version`, `mg`, `stats`, `stats settings`; if the name has several addresses, the same to each, and `ms`, `mg` and `md` of one item to compare them |
//!
//! * More than 500 commands to one server are sent in several batches, one after the other.
//! * About twice a day for each group, a store or mint is followed by one more batch that extends the time to
//!   live of the generation.
//! * A connection carries one batch at a time. Up to eight concurrent lookups have a connection each. Further
//!   lookups share the next batch, unless the entries are large.
//!
//! All commands are described in
//! [the protocol](https://github.com/memcached/memcached/blob/master/doc/protocol.txt).
//!
//! # Changing the list of servers
//!
//! While the list changes, some processes use the old list and some the new one. Deploy each step to all
//! processes. Begin the next step when *no process of the previous step is left*, and none of its requests is
//! in flight.
//!
//! 1. Empty the servers that join: restart them, or send `flush_all`.
//! 2. Deploy the old list with the new one as [`overlap`](MemcachedBackendBuilder::overlap). Processes read as
//!    before, and invalidations reach the owners in both lists.
//! 3. If the list has changed before, or a change was begun and reverted, send `flush_all` to the servers that
//!    stay. They may still have keys from a time when they owned them, and later invalidations of those keys
//!    went to other servers.
//! 4. Deploy the new list with the old one as `overlap`. Some processes now read from the old owners and some
//!    from the new ones. An invalidation is acknowledged only if both acknowledged it.
//! 5. Deploy the new list alone. Then stop the servers that left.
//!
//! Until a process has reached step 5, going back one step at a time is as safe as going forward. Afterwards
//! some invalidations have reached only the new owners. Going back is then a new change that begins at step 1:
//! empty the servers of the old list (`flush_all`) before any process reads from them.
//!
//! Only the keys of servers that join or leave move to another server. The others stay warm, unless step 3
//! empties them.
//!
//! To change the list without commands to the servers, combine the new list with a new
//! [`key_prefix`](MemcachedBackendBuilder::key_prefix) that was never used before. Steps 2 and 4 then also set
//! [`overlap_key_prefix`](MemcachedBackendBuilder::overlap_key_prefix) to the other prefix. Steps 1 and 3 are
//! not needed, and the cache starts cold.
//!
//! ## Why the steps are safe
//!
//! A lookup reads a generation from its owner in the old list or from its owner in the new list:
//!
//! * **New owner.** It was empty after step 3, and no process mints on it before step 4. A generation found
//!   on it was therefore minted after step 2 was complete, and every invalidation acknowledged since then has
//!   reached it.
//! * **Old owner.** Processes read from it only until step 4 is complete, and every invalidation acknowledged
//!   before step 5 has reached it.

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
mod commands;
mod contact;
mod error;
mod evidence;
mod expiry;
mod handshake;
mod leases;
mod left_servers;
mod lookups;
mod placement;
mod pool;
mod resolver;
mod routing;
mod server;
mod servers;
mod settings;
mod shared_reads;
mod writes;

pub use memcache;

pub use crate::advice::Advice;
pub use crate::backend::MemcachedBackend;
pub use crate::builder::MemcachedBackendBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
