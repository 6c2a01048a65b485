//! The servers that a name led away from, to notice when it leads to one of them again.
//!
//! While the name led elsewhere, invalidations went elsewhere. A server that kept its memory meanwhile would
//! bring back entries that were invalidated.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use groupcache_core::ErrorKind;

use crate::error::Failure;
use crate::handshake::ServerInfo;
use crate::resolver::KnownAddresses;

/// What one process knows about the servers of one name.
#[derive(Default)]
pub(crate) struct LeftServers(Mutex<State>);

#[derive(Default)]
struct State {
    in_use: Option<(Visited, Arc<KnownAddresses>)>,
    left: VecDeque<Visited>,
}

struct Visited {
    address: SocketAddr,
    info: ServerInfo,
}

impl LeftServers {
    /// Records that the name resolved to these addresses.
    pub(crate) fn resolved(&self, addresses: &[SocketAddr]) {
        let mut state = self.state();
        if state.in_use.as_ref().is_some_and(|(_, known)| !known.lead_to_server(addresses)) {
            state.leave();
        }
    }

    /// Records that the name led away from the server at this address.
    pub(crate) fn leave(&self, address: SocketAddr) {
        let mut state = self.state();
        if state.in_use.as_ref().is_some_and(|(in_use, _)| in_use.address == address) {
            state.leave();
        }
    }

    /// Records that the server is used from now on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the name led away from the server before, and the server has neither
    /// restarted nor been emptied since it was used first.
    pub(crate) fn enter(
        &self,
        address: SocketAddr,
        known: &Arc<KnownAddresses>,
        info: &ServerInfo,
    ) -> Result<(), Failure> {
        let mut state = self.state();
        let is_unchanged = |left: &Visited| {
            let flushes = |info: &ServerInfo| info.number("cmd_flush");
            left.address == address
                && left.info.is_same_incarnation(info)
                && flushes(&left.info) == flushes(info)
        };
        let is_back = state.left.iter().any(is_unchanged);
        #[cfg(groupcache_mutants)]
        let is_back = is_back && !groupcache_core::mutants::is_on("returned_server");
        if is_back {
            return Err(Self::returned(address));
        }
        state.left.retain(|left| left.address != address);
        state.in_use = Some((Visited { address, info: info.clone() }, Arc::clone(known)));
        Ok(())
    }

    fn returned(address: SocketAddr) -> Failure {
        let message = format!(
            "the name led to {address} before, then elsewhere, and now leads there again, but that server was \
             neither restarted nor emptied (`flush_all`) and may lack invalidations; if the name leads to \
             several servers in turn, list a name or an address of each server in `servers`"
        );
        Failure::new(ErrorKind::Configuration, message)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self) {
        if let Some((left, known)) = self.in_use.take() {
            known.leave();
            self.left.truncate(LEFT_MAX - 1);
            self.left.push_front(left);
        }
    }
}

/// The number of servers that are remembered.
const LEFT_MAX: usize = 16;
