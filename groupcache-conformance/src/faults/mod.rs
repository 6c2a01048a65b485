//! Faults: a plan of them, a backend that suffers them, and a run of a cache on it.

pub(crate) mod backend;
pub(crate) mod plan;
pub(crate) mod under_faults;
