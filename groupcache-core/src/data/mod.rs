//! Groups, keys and entries, and their encodings.

pub(crate) mod address;
pub(crate) mod entry;
pub(crate) mod group;
mod hash_set;
pub(crate) mod key;
mod key_encoder;
mod key_tags;
pub(crate) mod value;
mod wire;
