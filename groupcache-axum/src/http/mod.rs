//! HTTP rules: what may be stored, how it is stored, and what is sent.

pub(crate) mod body;
pub(crate) mod cache_status;
pub(crate) mod policy;
pub(crate) mod respond;
pub(crate) mod stored_response;
