//! Key strategies: from a call to the key and the groups of its entry.

pub(crate) mod by_arguments;
pub(crate) mod by_model;
pub(crate) mod by_tag;
pub(crate) mod call;
mod field_probe;
pub(crate) mod key_strategy;
pub(crate) mod model;
