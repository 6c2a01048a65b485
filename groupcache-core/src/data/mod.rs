//! Groups, keys and entries, and their encodings.

pub(crate) mod address;
pub(crate) mod entry;
pub(crate) mod group;
pub(crate) mod key;
mod key_encoder;
mod wire;
