//! The code of the README and of `docs/`, compiled and run as documentation tests.

#[doc = include_str!("../../README.md")]
#[deny(unused_must_use)]
mod readme {}

#[doc = include_str!("../../docs/backends.md")]
#[deny(unused_must_use)]
mod backends {}

#[doc = include_str!("../../docs/extending.md")]
#[deny(unused_must_use)]
mod extending {}

#[doc = include_str!("../../docs/handlers.md")]
#[deny(unused_must_use)]
mod handlers {}

#[doc = include_str!("../../docs/values.md")]
#[deny(unused_must_use)]
mod values {}
