//! Backends for tests of code that uses a cache.
//!
//! * [`PlainBackend`] is a complete backend in maps, as simple as the promises allow. With a [`Bug`] it
//!   breaks one of them, which shows whether a test notices.
//! * [`CountingBackend`] counts the round trips to another backend.
//! * [`ScriptedBackend`] fails, hangs, panics or waits where its script requires it.
//! * [`FailingBackend`] fails every operation.
//!
//! They wrap each other. A [`FaultBackend`](crate::FaultBackend) wraps them too, and draws its faults at
//! random instead.
//!
//! ```
//! use groupcache_conformance::doubles::{CountingBackend, Counts, PlainBackend};
//! use groupcache_core::{Cache, Error, Group};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let backend = CountingBackend::new(PlainBackend::new());
//! let cache = Cache::builder(backend.clone()).build();
//! cache.insert("page", Group::new("book"), || async { Ok::<_, Error>(1) }).await?;
//!
//! let hit = backend.counting(async {
//!     assert_eq!(cache.get("page", Group::new("book")).await, Some(1));
//! });
//! assert_eq!(hit.await, Counts { lookups: 1, ..Counts::default() });
//! # Ok(())
//! # }
//! ```

mod bug;
mod counting;
mod plain;
mod scripted;

pub use self::bug::Bug;
pub use self::counting::{CountingBackend, Counts, Operation};
pub use self::plain::{PlainBackend, Snapshot};
pub use self::scripted::{FailingBackend, Gate, ScriptedBackend, Step};
