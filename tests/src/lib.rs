//! What crosses crates: the README as tests, real servers, faults, models.

#![doc = include_str!("../../README.md")]
#![deny(unused_must_use)]
