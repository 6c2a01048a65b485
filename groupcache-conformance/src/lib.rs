//! Conformance tests for backends, key strategies and invalidators of groupcache.
//!
//! ```
//! use groupcache_conformance::{Expectations, FaultPlan, under_faults};
//! use groupcache_memory::MemoryBackend;
//!
//! // Makes a backend for one test. A backend on a shared server passes `key_prefix` on to it.
//! async fn backend(_key_prefix: String) -> Option<MemoryBackend> {
//!     Some(MemoryBackend::with_max_bytes(64 << 20))
//! }
//!
//! // One test for each promise of `Backend`.
//! mod conformance {
//!     groupcache_conformance::conformance_tests!(super::backend);
//! }
//!
//! // Readers and writers of a cache, while 1 % of the operations suffer each fault.
//! #[tokio::test]
//! async fn nothing_stale_is_served_under_faults() {
//!     let backend = MemoryBackend::with_max_bytes(64 << 20);
//!     under_faults(backend, FaultPlan::all(1, 10), 1, 10_000, "cargo test").await.unwrap();
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # let found = groupcache_conformance::violations(&backend, Expectations::new()).await;
//! # assert!(found.is_empty(), "{found:?}");
//! # let backend = MemoryBackend::with_max_bytes(64 << 20);
//! # under_faults(backend, FaultPlan::all(1, 10), 1, 10_000, "cargo test").await.unwrap();
//! # }
//! ```
//!
//! # What it checks
//!
//! * [`conformance_tests!`](crate::conformance_tests) makes one test for each sentence of the
//!   documentation of [`Backend`](groupcache_core::Backend), edges and races included. [`cases`] has
//!   them as functions, and [`violations`] runs all of them.
//! * [`lost_generation`] and [`rollback`] check a store that a test can make lose data or return to
//!   older contents.
//! * [`under_faults`] runs readers and writers of a cache while a [`FaultBackend`] does to the backend
//!   what networks and servers do. A [`FaultPlan`] and a seed repeat the run.
//! * [`HistoryRecorder`] records reads and invalidations, and finds every read that breaks the promise
//!   of the cache.
//! * [`laws`] check key strategies and invalidators.
//! * [`doubles`] has backends for tests of code that uses a cache: one that is complete and simple, one
//!   that counts, one that follows a script, one that fails.
//!
//! The kit cannot check that a store keeps its promises across a crash, a failover or a change of its
//! configuration. Only the test of a backend can start and stop its servers.
//!
//! # Requirements
//!
//! The tests need tokio with the features `macros` and `rt-multi-thread`. A test for which the backend
//! has no server is skipped with a line on standard error; it fails if the environment has
//! `GROUPCACHE_REQUIRE_SERVERS=1`.
//!
//! The backend has to keep at least 64 entries, 256 generations, and a body of
//! [`largest_body_bytes`](Expectations::largest_body_bytes). A smaller one evicts what a case still needs. Run
//! [`under_faults`] on a smaller one in addition, so that it evicts all the time.
//!
//! # Cost
//!
//! All cases one after the other take about one second on a store that expires to the millisecond, and
//! about twenty on one that expires to the second. Most of that is sleep. No case flushes a store: each
//! works under a key prefix of its own.

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

pub mod cases;
mod data_loss;
pub mod doubles;
mod faults;
mod history;
mod kit;
pub mod laws;
mod run;
mod seeds;

pub use self::data_loss::{lost_generation, rollback};
pub use self::faults::backend::FaultBackend;
pub use self::faults::plan::{Fault, FaultCounts, FaultPlan};
pub use self::faults::under_faults::{FaultRun, under_faults};
pub use self::history::{CheckedHistory, HistoryRecorder, Invalidation, Read, StaleRead};
pub use self::kit::{Expectations, Kit, Violation};
pub use self::run::violations;
pub use self::seeds::{scale, seeds};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
