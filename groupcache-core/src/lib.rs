//! Generational caching: values stay cached until the data they show changes.
//!
//! A value is cached under *groups*, such as "book 5" or "all books". When one of them is invalidated,
//! exactly the entries of that group become stale, in one round trip, however many they are. Each group has a
//! *generation*. An entry remembers the generations that its groups had before it was loaded, and is served
//! only while all of them are current.
//!
//! ```
//! use groupcache_core::{Cache, Group};
//! use groupcache_memory::MemoryBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder(MemoryBackend::with_max_bytes(64 << 20)).build();
//! let sales = |quarter: u8| Group::new("sales").with("quarter", quarter);
//! let report = async |cache: &Cache<_>, total: u64| {
//!     cache.get_or_load(&("report", 3), sales(3), || async move { Ok::<_, std::io::Error>(total) }).await
//! };
//!
//! assert_eq!(report(&cache, 100).await?, 100);
//! assert_eq!(report(&cache, 200).await?, 100);
//! cache.invalidate(sales(3)).await?;
//! assert_eq!(report(&cache, 200).await?, 200);
//! # Ok(())
//! # }
//! ```
//!
//! This crate has the algorithm, and the traits that its parts implement. The crates `groupcache-memory`,
//! `groupcache-redis` and `groupcache-memcached` are backends; `groupcache-axum` caches the responses of axum
//! handlers. What authors of backends need is in [`backend`]; the tests for their backends are in
//! `groupcache-conformance`.
//!
//! # Guarantees
//!
//! * **Safety.** If [`invalidate`](Cache::invalidate) returned `Ok` before a read started, that read never
//!   returns a value whose load began before that invalidation.
//! * **Isolation.** Invalidating a group makes no entry stale that does not depend on it.
//! * **Liveness.** An entry whose groups are untouched, that has not expired and that the backend still
//!   holds, is a hit.
//! * **Failure.** A failing backend never fails a read: the value is loaded and not stored. It never serves
//!   an entry that was not validated. A failing invalidation is an `Err` to its caller.
//! * **No clocks.** No decision compares the clocks of two machines.
//!
//! They rest on four rules:
//!
//! 1. Every write to a generation installs a value that was never current there before.
//! 2. The vector stored with an entry was read, or minted and acknowledged, before the loader read its data.
//! 3. A hit is an entry whose whole vector equals the current one, read after the request began.
//! 4. `invalidate` returns `Ok` only after the backend acknowledged.
//!
//! # Limits
//!
//! * A loader that reads data without naming its group is not protected. Name the group in the call, or
//!   [`depend`] on it before reading.
//! * Invalidate after the commit, not before.
//! * A read inside a load of the very same key waits for itself.
//!
//! # Cost
//!
//! | operation | round trips to the backend |
//! |---|---|
//! | hit | 1, for any number of groups |
//! | first hit in a process of an entry whose loader discovered groups | 2 |
//! | [`get_many`](Cache::get_many) | 1, or 2 if an entry depends on groups that this process has not seen |
//! | miss | 1, and 1 to mint if a group has no generation, and 1 to store in the background |
//! | [`depend`] on a new group | 1 |
//! | [`invalidate`](Cache::invalidate) | 1, for any number of groups and entries |

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

#[cfg(test)]
mod assertions;
pub mod backend;
mod cache;
mod clock;
mod data;
mod error;
#[cfg(all(test, groupcache_shuttle))]
mod interleavings;
mod invalidator;
mod load_context;
#[cfg(groupcache_mutants)]
#[doc(hidden)]
pub mod mutants;
mod options;
mod outcome;
mod read;
mod stats;
mod strategy;
mod sync;
mod time_limit;
mod typed;

#[doc(inline)]
pub use crate::backend::Backend;
pub use crate::backend::boxed::BoxBackend;
pub use crate::cache::{Cache, CacheBuilder};
pub use crate::clock::{Clock, ManualClock, SystemClock};
pub use crate::data::address::Address;
pub use crate::data::entry::Entry;
pub use crate::data::group::{Group, Groups};
pub use crate::data::key::Key;
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::invalidator::{BoxInvalidator, Invalidator, RecordingInvalidator};
pub use crate::load_context::{LoadContext, depend};
pub use crate::options::EntryOptions;
pub use crate::outcome::{Expiring, Loaded, Miss, ReadOutcome, Served, ServedFrom, StorePolicy, ToStore};
pub use crate::read::refresh::Refresh;
pub use crate::stats::Stats;
pub use crate::strategy::by_arguments::ByArguments;
pub use crate::strategy::by_model::{ByModel, ByModels};
pub use crate::strategy::by_tag::ByTag;
pub use crate::strategy::call::{Arguments, Call, NamedCall};
pub use crate::strategy::key_strategy::KeyStrategy;
pub use crate::strategy::model::{ArgumentText, Model, Models, check_fields, groups_of};
pub use crate::typed::keyed::KeyedCache;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
