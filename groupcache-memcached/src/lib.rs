//! groupcache on memcached 1.6 and later, one server or several, for applications of many processes.

#![warn(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    clippy::unwrap_used
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod advice;
mod backend;
mod builder;
mod error;
mod expiry;
mod greeting;
mod place;
mod reads;
mod routing;
mod server;

pub use memcache;

pub use crate::advice::Advice;
pub use crate::backend::MemcachedBackend;
pub use crate::builder::MemcachedBackendBuilder;
