//! The code of the README and of `docs/`, compiled and run as documentation tests.

#[doc = include_str!("../../README.md")]
mod readme {}

#[doc = include_str!("../../docs/backends.md")]
mod backends {}

#[doc = include_str!("../../docs/database.md")]
mod database {}

#[doc = include_str!("../../docs/extending.md")]
mod extending {}

#[doc = include_str!("../../docs/handlers.md")]
mod handlers {}

#[doc = include_str!("../../docs/values.md")]
mod values {}
