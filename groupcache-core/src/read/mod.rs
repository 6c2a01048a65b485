//! The way of a read.

pub(crate) mod discovered;
mod find;
pub(crate) mod lease_wait;
pub(crate) mod load;
pub(crate) mod lookup;
pub(crate) mod single_flight;
pub(crate) mod verdict;
