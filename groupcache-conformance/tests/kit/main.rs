//! Tests of the kit itself: every sound backend passes, and every bug is found.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod backends;
mod bugs;
mod faults;
mod laws;
