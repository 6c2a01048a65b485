//! What the tests of this workspace share: backends written by hand, each with one purpose.

#![warn(missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod backends;
mod plain;
mod scale;

pub use crate::backends::{CountingBackend, Counts, FailingBackend, Gate, Operation, ScriptedBackend, Step};
pub use crate::plain::{Bug, PlainBackend, Snapshot};
pub use crate::scale::{scale, seeds};

/// The README, as tests.
#[doc = include_str!("../../README.md")]
#[deny(unused_must_use)]
mod readme {}
