//! The meta commands that this crate sends, the values that it stores, and the meaning of the responses
//! (<https://github.com/memcached/memcached/blob/master/doc/protocol.txt>, "Meta Commands").

use groupcache_core::Result;
use groupcache_core::backend::Generation;
use memcache::exp::{MetaCommand, MetaCommandResult as Response, MetaOp, ReturnCode};

use crate::error::Failure;

/// Reads the value.
pub(crate) fn get(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag("v")
}

/// Reads the value and the seconds until it expires.
pub(crate) fn get_with_time_left(name: &[u8]) -> MetaCommand {
    get(name).flag("t")
}

/// Reads the value and the CAS number, which the server changes with every write.
pub(crate) fn get_with_cas(name: &[u8]) -> MetaCommand {
    get(name).flag("c")
}

/// Reads the seconds until the item expires, without its value.
pub(crate) fn time_left(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag("t")
}

/// Sets when the item expires, if it exists.
pub(crate) fn touch(name: &[u8], expiry: u32) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag(format!("T{expiry}"))
}

/// Stores the item, replacing any other.
pub(crate) fn set(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    MetaCommand::new(MetaOp::Set, name).value(value).flag(format!("T{expiry}"))
}

/// Stores the item if none exists.
pub(crate) fn add(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    set(name, value, expiry).flag("ME")
}

/// Stores the item if one exists.
pub(crate) fn replace(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    set(name, value, expiry).flag("MR")
}

/// Deletes the item.
pub(crate) fn delete(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Delete, name)
}

/// Deletes the item if it still has this CAS number.
pub(crate) fn delete_if_unchanged(name: &[u8], cas: u64) -> MetaCommand {
    delete(name).flag(format!("C{cas}"))
}

/// Returns the value that a command read, or `None` for a miss.
pub(crate) fn value(response: Response) -> Result<Option<Vec<u8>>> {
    match (response.rc, response.value) {
        (ReturnCode::Va, value @ Some(_)) => Ok(value),
        (ReturnCode::En, _) => Ok(None),
        _ => Err(Failure::unexpected("mg").into()),
    }
}

/// Returns whether [`add`] stored its value, rather than finding another.
pub(crate) fn was_added(response: &Response) -> bool {
    response.rc == ReturnCode::Hd
}

/// Checks the response to [`set`].
pub(crate) fn check_stored(response: &Response) -> Result<()> {
    match response.rc {
        ReturnCode::Hd => Ok(()),
        _ => Err(Failure::unexpected("ms").into()),
    }
}

/// Checks the response to [`replace`] or [`delete`]. There may have been nothing to replace or delete.
pub(crate) fn check_replaced_or_absent(response: &Response) -> Result<()> {
    match response.rc {
        ReturnCode::Hd | ReturnCode::Ns | ReturnCode::Nf => Ok(()),
        _ => Err(Failure::unexpected("ms or md").into()),
    }
}

/// Returns the stored form of a generation.
pub(crate) fn encode_generation(generation: Generation) -> [u8; GENERATION_BYTES] {
    generation.get().to_be_bytes()
}

/// Returns the generation with this stored form, or `None` if it is the form of none.
pub(crate) fn decode_generation(value: &[u8]) -> Option<Generation> {
    let bytes: [u8; GENERATION_BYTES] = value.try_into().ok()?;
    Generation::new(u128::from_be_bytes(bytes))
}

const GENERATION_BYTES: usize = 16;
