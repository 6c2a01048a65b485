//! What the tests of this workspace share: backends written by hand, each with one
//! purpose; real servers, faults between them and their clients, and the check of every read.

#![doc(test(attr(deny(unused_must_use))))]
#![warn(missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

pub mod asking;
mod backends;
pub mod bookstore;
pub mod broken;
pub mod broken_memcached;
pub mod clusters;
mod documents;
pub mod history;
pub mod impostor;
pub mod log;
pub mod memcached;
mod plain;
pub mod proxy;
mod scale;
pub mod servers;

pub use crate::backends::{CountingBackend, Counts, FailingBackend, Gate, Operation, ScriptedBackend, Step};
pub use crate::plain::{Bug, PlainBackend, Snapshot};
pub use crate::scale::{scale, seeds};
