//! The commands of the meta protocol that this crate sends, and what the answers mean
//! (<https://github.com/memcached/memcached/blob/master/doc/protocol.txt>, "Meta Commands").

use groupcache_core::Result;
use memcache::exp::{MetaCommand, MetaCommandResult as Answer, MetaOp, ReturnCode};

use crate::error::Failure;

/// Its value.
pub(crate) fn get(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag("v")
}

/// Its value and how many seconds it has left.
pub(crate) fn get_with_time_left(name: &[u8]) -> MetaCommand {
    get(name).flag("t")
}

/// Its value and the number that the server changes with every write.
pub(crate) fn get_with_cas(name: &[u8]) -> MetaCommand {
    get(name).flag("c")
}

/// How many seconds it has left, without its value.
pub(crate) fn time_left(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag("t")
}

/// Gives it another life, if it is there.
pub(crate) fn touch(name: &[u8], expiry: u32) -> MetaCommand {
    MetaCommand::new(MetaOp::Get, name).flag(format!("T{expiry}"))
}

pub(crate) fn set(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    MetaCommand::new(MetaOp::Set, name).value(value).flag(format!("T{expiry}"))
}

/// Only if there is none.
pub(crate) fn add(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    set(name, value, expiry).flag("ME")
}

/// Only if there is one.
pub(crate) fn replace(name: &[u8], value: impl Into<Vec<u8>>, expiry: u32) -> MetaCommand {
    set(name, value, expiry).flag("MR")
}

pub(crate) fn delete(name: &[u8]) -> MetaCommand {
    MetaCommand::new(MetaOp::Delete, name)
}

/// Only if it was not written since.
pub(crate) fn delete_if_unchanged(name: &[u8], cas: u64) -> MetaCommand {
    delete(name).flag(format!("C{cas}"))
}

/// What a command that gets has got, if it is there.
pub(crate) fn got(answer: Answer) -> Result<Option<Vec<u8>>> {
    match (answer.rc, answer.value) {
        (ReturnCode::Va, value @ Some(_)) => Ok(value),
        (ReturnCode::En, _) => Ok(None),
        _ => Err(Failure::unexpected("mg").into()),
    }
}

/// Whether a command that adds has done so, rather than found something there.
pub(crate) fn added(answer: &Answer) -> bool {
    answer.rc == ReturnCode::Hd
}

pub(crate) fn stored(answer: &Answer) -> Result<()> {
    match answer.rc {
        ReturnCode::Hd => Ok(()),
        _ => Err(Failure::unexpected("ms").into()),
    }
}

/// There being nothing to replace or to delete is fine.
pub(crate) fn gone(answer: &Answer) -> Result<()> {
    match answer.rc {
        ReturnCode::Hd | ReturnCode::Ns | ReturnCode::Nf => Ok(()),
        _ => Err(Failure::unexpected("ms or md").into()),
    }
}
