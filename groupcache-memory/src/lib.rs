//! groupcache in the memory of one process: the embedded default.
//!
//! Entries live in [moka](https://docs.rs/moka), bounded by their size in bytes; generations live
//! beside it, as counters that entries point to. A group exists as long as an entry or a computation
//! uses it.
//!
//! ```
//! use groupcache_core::{Cache, Group};
//! use groupcache_memory::MemoryBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder(MemoryBackend::with_max_bytes(256 << 20)).build();
//! let title: String =
//!     cache.get_or_load("title", Group::new("book"), || async { Ok::<_, std::io::Error>("Emma".into()) }).await?;
//! assert_eq!(title, "Emma");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! Those of [`Backend`](groupcache_core::Backend). Generations come from one counter of the process,
//! so none ever repeats. Nothing outlives the process: other processes do not see invalidations made
//! here, use a networked backend for several.
//!
//! # Limits
//!
//! Sizes: an entry larger than the whole cache is refused with
//! [`Capacity`](groupcache_core::ErrorKind::Capacity). Time to live: to the clock's resolution;
//! entries without one live until evicted.
//!
//! # Cost
//!
//! No operation waits. A hit costs one moka `get` and one atomic read for each group; an invalidation
//! one table look-up for each group, however many entries there are.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod backend;
mod generations;
#[cfg(all(test, groupcache_shuttle))]
mod interleavings;
mod sync;

pub use crate::backend::{MemoryBackend, MemoryBackendBuilder};
