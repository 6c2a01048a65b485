//! groupcache on memcached 1.6 and later, one server or several, for applications of many processes.
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
//! Those of [`Backend`](groupcache_core::Backend), through crashes, evictions, cut networks and restarts
//! of the servers:
//!
//! * A group's generation is 128 random bits, drawn for each attempt on the wire. Nothing that a server
//!   counts is one: its CAS numbers begin anew when it is started.
//! * Each key has one server, by a hash that is the same in every process, platform and release. A server
//!   that is down is not replaced by another: its keys are misses, and invalidations of its groups are
//!   errors, until it is back. The others go on. So a server whose network was cut comes back with just
//!   the invalidations that were acknowledged, with all its memory.
//! * What was evicted, expired or flushed is missing, and what is missing is a miss.
//! * A write that was not acknowledged is an error and its token is never used. This crate sends once
//!   more, with new tokens, only where the connection turned out to be closed.
//! * An invalidation for which a server has no memory (`-M`) removes the generation instead.
//! * No answer is taken for that to another request: a connection on which one may still come is closed,
//!   and each answer repeats the number that its command has on its connection.
//!
//! # What the operator must see to
//!
//! * The list names *servers*. An address must lead to one of them for as long as the list stands: no
//!   address that moves from one server to another, no proxy that spreads keys by itself or leaves out
//!   servers that are down.
//! * All processes have the same list, each server spelt the same (`localhost` is not `127.0.0.1`); the
//!   order does not matter. To change it see [below](#changing-the-list-of-servers).
//! * A server that was out of the list must be empty when it joins again.
//! * A server that keeps its memory over a restart (`-e`) is safe after an orderly stop: nothing was
//!   acknowledged while it was away. It must not be started with a copy of that file from some other time.
//!
//! * A server must not be brought back as a copy of its memory (a snapshot of its virtual machine, say).
//! * A host name leads to one server, not to several by turns. It is looked up for each new connection, and
//!   one that leads to another address than before makes all connections anew.
//!
//! [`MemcachedBackend::advice`] tells of what can be seen from here: `-e`, and servers of `overlap` that are
//! not empty.
//!
//! # Limits
//!
//! * Sizes: keys and groups of any length and content, as names are hashes; entries up to the server's item
//!   limit (`-I`, 1 MiB if that is not set). Larger ones are not stored, counted, and logged once.
//! * Time to live: whole seconds, rounded up; an entry may go up to a second early or late, as servers count
//!   in seconds. More than 30 days is sent as a date of the server's own clock, which it is asked for when
//!   it is connected to. Servers count until 19 January 2038; what lives longer is cut to that. Entries
//!   without a time to live have 30 days.
//! * Leases last whole seconds too: up to one less than asked for. If the server of a lease is down, nobody
//!   waits for it and each process computes.
//! * No TLS, no passwords, no socket files, no discovery of servers.
//! * Servers that answer `mg` as releases before 1.6 became stable did are refused, with a message.
//!
//! # Cost
//!
//! | operation | one batch to each server concerned, all at the same time |
//! |---|---|
//! | lookup | `mg` for the entry and for each generation |
//! | several lookups | the same, for all of them together |
//! | mint | for each group `ms` in mode add, and `mg` |
//! | lease | the same for the groups, and for the lease |
//! | bump | for each group `ms` in mode replace; where a server has no memory one more, of `md` |
//! | store | `ms`, and for each group `mg` without its value, to see how long it lives |
//! | delete | `md` |
//! | give back a lease | `mg`, then `md` with the CAS number |
//! | connect | `version`, `mg`, `stats`, `stats settings` |
//!
//! Of more than 500 commands to one server each 500 are a batch, one after the other.
//!
//! About twice a day for each group a store or a mint is followed by one more batch, which lengthens the
//! life of the generation.
//!
//! A connection carries one batch at a time. Up to eight lookups at once have one each; those that come
//! meanwhile share the next, unless they are large. All commands are described in
//! [the protocol](https://github.com/memcached/memcached/blob/master/doc/protocol.txt). Runs on tokio.
//!
//! A lease is an item of its own, added with its owner as the value, rather than the protocol's own lease
//! flags (vivify, win and stale): those say that *this request* has won and never again who has, while a
//! lease here belongs to a process, which may ask again; and they would put an empty item in the place of
//! an entry that is stale, which conditional requests still have a use for.
//!
//! # Changing the list of servers
//!
//! While a list changes, some processes have the old one and some the new. Each step is rolled out to all
//! processes, and the next one begins when *no process of the step before is left*, with nothing under way:
//!
//! 1. Servers that join are empty: started anew, or `flush_all`.
//! 2. All processes: the old list, and [`overlap`](MemcachedBackendBuilder::overlap) with the new one.
//!    They read as before; invalidations reach the owners in both lists.
//! 3. If the list has changed before, or a change was begun and taken back: `flush_all` on the servers that
//!    stay. They may still have keys from a time when they owned them, and what was invalidated since was
//!    told to others.
//! 4. All processes: the new list, and `overlap` with the old one. Now some read here and some there, and
//!    an invalidation is acknowledged only by both.
//! 5. All processes: the new list alone. Servers that left can be stopped.
//!
//! Going back one step at a time is as safe as long as no process has come to step 5. After that some
//! invalidations have reached the new owners alone, and going back is a change of its own, from step 1:
//! the servers of the old list are emptied (`flush_all`) before anybody reads from them again.
//!
//! Only the keys of servers that come or go move; the others stay warm, except where step 3 empties them.
//! Without any command to servers it goes with a new [`key_prefix`](MemcachedBackendBuilder::key_prefix),
//! never used before, together with the new list: steps 2 and 4 then name the other prefix too, with
//! [`overlap_key_prefix`](MemcachedBackendBuilder::overlap_key_prefix), and the cache starts cold.
//!
//! Why this is enough: whoever looks for a generation finds it on the owner in the old list or in the new.
//! A generation that is found on a new owner was minted there after step 2 was complete, as nobody mints
//! there before and nothing older is there; from then on every acknowledged invalidation has reached it.
//! Whoever still reads from the old owner does so before step 4 is complete, and up to step 5 every
//! acknowledged invalidation has reached that one too.

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
mod error;
mod expiry;
mod greeting;
mod lookups;
mod place;
mod pool;
mod reads;
mod routing;
mod server;
mod writes;

pub use memcache;

pub use crate::advice::Advice;
pub use crate::backend::MemcachedBackend;
pub use crate::builder::MemcachedBackendBuilder;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
