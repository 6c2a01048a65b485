//! From a call to the key and the groups of its entry.

pub(crate) mod call;
pub(crate) mod key_strategy;
pub(crate) mod model;
