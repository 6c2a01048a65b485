//! A groupcache backend in the memory of one process: the embedded default.
//!
//! Entries live in a [moka](https://docs.rs/moka) cache that is bounded by the bytes of its entries.
//! Generations live beside it, as one counter for each group. A group exists as long as an entry or a load
//! uses it.
//!
//! ```
//! use groupcache_core::{Cache, Group};
//! use groupcache_memory::MemoryBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build();
//! let load = || async { Ok::<_, std::io::Error>("Emma".to_owned()) };
//! let title: String = cache.get_or_load("title", Group::new("book"), load).await?;
//! assert_eq!(title, "Emma");
//!
//! cache.invalidate(Group::new("book")).await?;
//! assert_eq!(cache.get::<String, _, _>("title", Group::new("book")).await, None);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! The backend keeps every promise of [`Backend`](groupcache_core::Backend). All generations come from one
//! counter of the process, so none ever repeats.
//!
//! A group without entries and loads takes no memory. An invalidation creates nothing.
//!
//! # Limits
//!
//! * **One process.** Other processes do not see invalidations made here. A service of several processes
//!   needs a networked backend.
//! * **Sizes.** Keys and groups may have any length. An entry that is larger than the whole cache is
//!   refused with [`Capacity`](groupcache_core::ErrorKind::Capacity).
//! * **Time to live.** It has the resolution of the clock. An entry without one stays until it is evicted.
//!
//! # Cost
//!
//! No operation waits, and none takes a round trip.
//!
//! | operation | cost |
//! |---|---|
//! | hit | one moka `get`, and one atomic load for each group of the entry |
//! | miss | the same, and one look-up in the table of generations for each group that the caller names |
//! | mint, bump | one look-up in the table of generations for each group, for any number of entries |
//! | store | one look-up for each group, and one moka `insert` |
//! | delete | one moka `invalidate` |

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

mod backend;
mod generations;
#[cfg(all(test, groupcache_shuttle))]
mod interleavings;

pub use crate::backend::{MemoryBackend, MemoryBackendBuilder, Removal};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
